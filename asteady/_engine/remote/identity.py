"""What a server is and serves, and the fingerprint of its answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal, TypeAlias

import attrs

from asteady._base.errors import (
    InvalidRequestError,
    ModelChangedError,
    ModelError,
    ModelNotFoundError,
)
from asteady._base.requests import Kind
from asteady._base.validation import shorten
from asteady._engine.remote.client import Client
from asteady._engine.remote.endpoints import Endpoint
from asteady._engine.remote.failures import ServerFailedError
from asteady._engine.remote.reference import Address, RemoteReference

Server: TypeAlias = Literal["asteady", "llama-server", "vllm", "openai", "other"]

# What `owned_by` says of a model.
_SERVERS: dict[str, Server] = {
    "asteady": "asteady",
    "llamacpp": "llama-server",
    "vllm": "vllm",
    "openai": "openai",
    "openai-internal": "openai",
    "system": "openai",
}
# Raise it when asteady asks for answers, or reads them, in another way.
_WAYS_VERSION = 1
_MOST_NAMES = 20
# Another model than the one that is meant is not there by mistake for a second only.
OTHER_MODEL_S = 30.0


@attrs.frozen(kw_only=True)
class Identity:
    """A model on its servers.

    `reported` is what they say of themselves and the model with each answer, None if that is not
    known or of no account. With `shares_keys` an answer has the same fingerprint, and so the same
    key, as one of asteady on the server's own machine. `dimensions` are those of whole vectors, 0
    if unknown.
    """

    server: Server
    name: str
    fingerprint: str
    revision: str | None = None
    reported: Mapping[str, str] | None = None
    shares_keys: bool = False
    dimensions: int = 0

    @property
    def parts(self) -> Mapping[str, Any]:
        """What the fingerprint is made of, by name."""
        return {
            "server": self.server,
            "served_model": self.name,
            "revision": self.revision,
            "reported": self.reported,
        }

    def check_reported(self, where: object, answer: Mapping[str, Any]) -> None:
        """
        Raises:
            ModelChangedError: the answer is by another model or server.
        """
        found = reported_by(answer)
        if self.reported is None or not found:
            return
        for name in self.reported.keys() & found.keys():
            if found[name] != self.reported[name]:
                raise ModelChangedError(
                    f"the server at {where} reported the {name} {shorten(found[name], 100)!r} "
                    f"instead of {shorten(self.reported[name], 100)!r}, so the model is another "
                    "one now: call again; if the server reports various ones all the time, add "
                    "?fingerprint=ignore before the # of the model's reference, and a revision "
                    "of yours as in #name@1"
                )


def reported_by(answer: Mapping[str, Any]) -> dict[str, str]:
    """What an answer says of who made it."""
    return {
        name: _without_directory(answer[name])
        for name in ("system_fingerprint", "model")
        if isinstance(answer.get(name), str) and answer[name]
    }


def _without_directory(name: str) -> str:
    """llama-server calls a model by the path of its file, which is another one elsewhere."""
    return PurePosixPath(name).stem if name.endswith(".gguf") else name


async def find(
    kind: Kind, reference: RemoteReference, *, retries: int | None
) -> tuple[Identity, Address]:
    """What the first server says that can be asked, and its address.

    Raises:
        ModelError: it does not serve the model, or does not take the API key.
        RemoteError: no server can be reached, is ready, and answers in time.
        SettingsError: the variable for the API key is not set, or has no key.
    """
    client = Client(reference, connections=1)

    async def ask(endpoint: Endpoint) -> tuple[Identity, Address]:
        return await identify(client, endpoint, kind, reference), endpoint.address

    try:
        return await client.attempt(ask, retries=retries)
    finally:
        await client.aclose()


async def identify(
    client: Client, endpoint: Endpoint, kind: Kind, reference: RemoteReference
) -> Identity:
    """Ask a server for the model.

    Raises:
        ServerFailedError: another try may go better, or it does not serve the model, which another
            one may do.
    """
    try:
        return await _identify(client, endpoint, kind, reference)
    except ModelError as exc:
        raise ServerFailedError(exc, again=False, after_s=OTHER_MODEL_S) from exc


async def _identify(
    client: Client, endpoint: Endpoint, kind: Kind, reference: RemoteReference
) -> Identity:
    try:
        listed = (await client.get(endpoint, "models")).content.get("data")
    except (ModelNotFoundError, InvalidRequestError):
        listed = None  # not all servers have a list
    records = (
        [each for each in listed if isinstance(each, Mapping)] if isinstance(listed, list) else []
    )
    record = _chosen(endpoint, records, reference)
    name = str(record.get("id") or reference.name)
    server = _SERVERS.get(str(record.get("owned_by")), "other")
    if server == "asteady" and not reference.ignores_fingerprint:
        return await _identify_asteady(client, endpoint, kind, name, reference)
    reported: dict[str, str] = {}
    if not reference.ignores_fingerprint:
        reported = await _first_answer(client, endpoint, kind, name, server)
    return Identity(
        server=server,
        name=name,
        fingerprint=_digest(name, reference.revision, reported),
        revision=reference.revision,
        reported=reported or None,
    )


async def _identify_asteady(
    client: Client, endpoint: Endpoint, kind: Kind, name: str, reference: RemoteReference
) -> Identity:
    described = (await client.get(endpoint, f"models/{name}", kind=kind)).content
    found = described.get("system_fingerprint")
    if not isinstance(found, str) or not found:
        raise ModelError(
            f"the server at {endpoint.address} is an older version of asteady, which does not tell "
            "the fingerprints of its models: update it, or add ?fingerprint=ignore before the # of "
            "the model's reference"
        )
    dimensions = described.get("dimensions")
    revision = reference.revision
    reported = {"system_fingerprint": found}
    return Identity(
        server="asteady",
        name=name,
        fingerprint=found if revision is None else _digest(name, revision, reported),
        revision=revision,
        reported=reported,
        shares_keys=revision is None,
        dimensions=dimensions if isinstance(dimensions, int) else 0,
    )


def _chosen(
    endpoint: Endpoint, records: Sequence[Mapping[str, Any]], reference: RemoteReference
) -> Mapping[str, Any]:
    """The record of the model. Without a list, or one with it, its name is believed."""
    where, name = endpoint.address, reference.name
    names = [str(each.get("id")) for each in records]
    shown = shorten(", ".join(names[:_MOST_NAMES]), 500)
    if not name:
        if len(records) == 1:
            return records[0]
        raise ModelNotFoundError(
            f"the model {reference.text!r} does not say which one of the server's: add #NAME"
            + (f"; there are: {shown}" if names else "")
        )
    if not records:
        return {}
    for record in records:
        aliases = record.get("aliases")
        own = str(record.get("id"))
        if name in (own, _without_directory(own), PurePosixPath(own).name) or (
            isinstance(aliases, list) and name in aliases
        ):
            return record
    raise ModelNotFoundError(f"the server at {where} has no model {name!r}; there are: {shown}")


async def _first_answer(
    client: Client, endpoint: Endpoint, kind: Kind, name: str, server: Server
) -> dict[str, str]:
    """What the server reports with an answer of a token, or a vector."""
    body: dict[str, Any] = {"model": name}
    if kind == "embedding":
        path = "embeddings"
        body["input"] = "a"
    else:
        path = "chat/completions"
        body["messages"] = [{"role": "user", "content": "a"}]
        body["max_completion_tokens" if server == "openai" else "max_tokens"] = 1
    try:
        reply = await client.post(endpoint, path, json.dumps(body).encode())
    except InvalidRequestError:
        return {}  # a model without a chat template, for example
    return reported_by(reply.content)


def _digest(name: str, revision: str | None, reported: Mapping[str, str]) -> str:
    """The fingerprint of answers of a server that has none like asteady's: not of where it is."""
    described = {
        "remote": _WAYS_VERSION,
        "model": _without_directory(name),
        "revision": revision,
        "reported": dict(reported),
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
