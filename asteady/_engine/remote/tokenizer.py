"""Asks a model's server for the tokens of a prompt or text."""

from __future__ import annotations

import json
import threading

import attrs

from asteady._base.errors import ModelCapabilityError, ModelNotFoundError
from asteady._base.forks import disown_in_child
from asteady._base.requests import EmbedRequest
from asteady._engine.api import Request
from asteady._engine.remote.body import RemoteJob, job_of
from asteady._engine.remote.client import Client
from asteady._engine.remote.endpoints import Endpoint
from asteady._engine.remote.failures import broken
from asteady._engine.remote.identity import Identity
from asteady._engine.remote.loop import PrivateLoop
from asteady._engine.remote.reference import RemoteReference

# No server computes anything for it.
_TIMEOUT_S = 30.0

# Of parents: their selectors are those of the parents too, so they must not be closed.
_disowned: list[PrivateLoop] = []


class RemoteTokenizer:
    """The tokenizer of a model whose server has POST /tokenize, until `close`.

    Any thread may use it; the requests are sent one after the other.
    """

    def __init__(self, reference: RemoteReference, identity: Identity) -> None:
        """
        Raises:
            ModelCapabilityError: this kind of server does not tell tokens.
            SettingsError: the variable for the API key is not set, or has no key.
        """
        if identity.server not in ("asteady", "llama-server", "vllm"):
            raise ModelCapabilityError(
                f"the tokens of {reference.text} are known on its server only, which does not tell "
                "them: the prompt_tokens of an answer say how many its prompt had"
            )
        self._reference = reference
        self._identity = identity
        self._lock = threading.Lock()
        self._loop = PrivateLoop()
        timeout_s = min(reference.timeout_s, _TIMEOUT_S)
        try:
            self._client = Client(attrs.evolve(reference, timeout_s=timeout_s), connections=1)
        except BaseException:
            self._loop.close()
            raise
        disown_in_child(self)

    def disown(self) -> None:
        _disowned.append(self._loop)

    def tokenize(self, request: Request) -> list[int]:
        """Blocks until a server has answered.

        Raises:
            RemoteError: no server can be reached, is ready, and answers in time and validly.
            ModelCapabilityError: the server does not tell tokens, or cannot do what is asked for.
            InvalidRequestError: it does not take an argument.
        """
        job = job_of(request, self._identity)

        async def ask(endpoint: Endpoint) -> list[int]:
            try:
                return await self._ask(endpoint, job)
            except ModelNotFoundError as exc:
                raise ModelCapabilityError(
                    f"the server at {endpoint.address} does not tell the tokens of a prompt: {exc}"
                ) from None

        with self._lock:
            return self._loop.run_until_complete(self._client.attempt(ask))

    def piece(self, token: int) -> bytes:
        raise ModelCapabilityError(
            f"the tokens of {self._reference.text} are known on its server only: they can be "
            "counted, by count_tokens, and not shown"
        )

    def close(self) -> None:
        with self._lock:
            self._loop.run_until_complete(self._client.aclose())
            self._loop.close()

    async def _ask(self, endpoint: Endpoint, job: RemoteJob) -> list[int]:
        root = endpoint.address.base_url.removesuffix("/v1")
        match self._identity.server:
            case "asteady":
                path, body = "tokenize", job.body
            case "vllm":
                path, body = f"{root}/tokenize", _vllm_body(job)
            case _:
                path, body = f"{root}/tokenize", await self._llama_body(endpoint, root, job)
        content = (await self._client.post(endpoint, path, body)).content
        tokens = content.get("tokens")
        if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
            raise broken(endpoint.address, "its tokens are no list of ids")
        return tokens

    async def _llama_body(self, endpoint: Endpoint, root: str, job: RemoteJob) -> bytes:
        """A text, which llama-server makes of a conversation on another path."""
        request = job.request
        text: object
        if isinstance(request, EmbedRequest):
            text = request.text
        elif request.raw:
            text = request.prompt
        else:
            reply = await self._client.post(endpoint, f"{root}/apply-template", job.body)
            text = reply.content.get("prompt")
        return json.dumps({"content": text, "add_special": True, "parse_special": True}).encode()


def _vllm_body(job: RemoteJob) -> bytes:
    if not isinstance(job.request, EmbedRequest):
        return job.body
    model = json.loads(job.body)["model"]
    return json.dumps({"model": model, "prompt": job.request.text}).encode()
