"""The models that clients may name."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from asteady._base.errors import AsteadyError
from asteady._base.files import AnyPath
from asteady._base.requests import KINDS, Kind
from asteady._base.settings import REMOTE_PREFIX
from asteady._engine.remote.reference import RemoteReference
from asteady._session.generation import context_of
from asteady._session.session import Session
from asteady.server._openai.errors import ApiError, api_error, refused


class ServedModels:
    """Names and what they stand for. A name that is none of them opens no file."""

    def __init__(self, session: Session, models: Mapping[str, AnyPath] | None) -> None:
        settings = session.settings
        self._defaults: dict[Kind, str] = {
            "generation": settings.generation_model,
            "embedding": settings.embedding_model,
        }
        self._named = {name: os.fspath(model) for name, model in (models or {}).items()}
        self._own: dict[Kind, str] = {
            kind: name_of(reference) for kind, reference in self._defaults.items()
        }
        self._created = int(time.time())

    def find(self, kind: Kind, name: object) -> tuple[str, str]:
        """The name and the reference of a model; without a name those of the session's.

        Raises:
            ApiError: no model has this name.
        """
        if name is None or name == self._own[kind]:
            return self._own[kind], self._defaults[kind]
        if isinstance(name, str) and name in self._named:
            return name, self._named[name]
        for other in self._own:
            if name == self._own[other]:
                return self._own[other], self._defaults[other]
        names = ", ".join(self.names())
        raise ApiError(
            f"the model {str(name)[:100]!r} is not served here; there are {names}, and a request"
            f" without a name asks {self._own[kind]}",
            status=404,
            code="model_not_found",
            param="model",
        )

    def names(self) -> list[str]:
        return list(dict.fromkeys([*self._own.values(), *self._named]))

    def describe(self, name: str) -> dict[str, Any]:
        """The record of a model.

        Raises:
            ApiError: no model has this name.
        """
        self.find("generation", name)
        return {"id": name, "object": "model", "created": self._created, "owned_by": "asteady"}


async def identified(
    served: ServedModels, session: Session, name: str, kind: str
) -> dict[str, Any]:
    """The fingerprint of a model as one of this kind, and the dimensions of its vectors.

    Raises:
        ApiError: there is no such model or kind, or it cannot be identified.
    """
    one: Kind
    for one in KINDS:
        if one == kind:
            break
    else:
        raise refused("kind", " or ".join(KINDS) + " is needed")
    _, reference = served.find(one, name)
    models = context_of(session).models
    try:
        fingerprint = await models.fingerprint(one, reference)
    except AsteadyError as exc:
        raise api_error(exc) from exc
    more = {"dimensions": models.dimensions(fingerprint)} if one == "embedding" else {}
    return {"system_fingerprint": fingerprint, **more}


def name_of(reference: str) -> str:
    """A model is called by its name, not by where it lies."""
    if reference.startswith(REMOTE_PREFIX):
        return RemoteReference.parse(reference).name or "remote"
    if reference.startswith("hf:") and not reference.endswith(".gguf"):
        return reference
    return PurePath(reference).name.removesuffix(".gguf")
