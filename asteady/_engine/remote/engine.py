"""The engine of a remote model."""

from __future__ import annotations

from asteady._base.errors import ModelCapabilityError
from asteady._base.requests import EmbedRequest, Kind
from asteady._engine.api import Request
from asteady._engine.remote.batches import MOST_TEXTS
from asteady._engine.remote.body import RemoteJob, is_sent_as_it_is, job_of
from asteady._engine.remote.identity import Identity
from asteady._engine.remote.reference import Address, RemoteReference
from asteady._engine.remote.worker import RemoteWorker


class RemoteEngine:
    """A model of one kind that servers compute. One worker sends at most `requests` at once, which
    may have several texts each to embed.

    `verified` is the server that has just said what the model is.
    """

    max_workers = 1

    def __init__(
        self,
        reference: RemoteReference,
        kind: Kind,
        identity: Identity,
        requests: int,
        verified: Address | None,
    ) -> None:
        self.model = reference.text
        self._reference = reference
        self._kind: Kind = kind
        self._identity = identity
        self.width = requests if kind == "generation" else requests * MOST_TEXTS
        self._requests = requests
        self._verified = verified

    @property
    def fingerprint(self) -> str:
        return self._identity.fingerprint

    def prepare(self, request: Request) -> RemoteJob:
        if isinstance(request, EmbedRequest) != (self._kind == "embedding"):
            raise ModelCapabilityError(f"{self.model} is asked for as a model for {self._kind}")
        return job_of(request, self._identity)

    @property
    def takes_locks(self) -> bool:
        return self._identity.server == "asteady"

    def takes_lease(self, request: Request) -> bool:
        return self._identity.shares_keys and is_sent_as_it_is(request)

    def open_worker(self) -> RemoteWorker:
        return RemoteWorker(
            self._reference, self._kind, self._identity, self._requests, self._verified
        )

    def close(self) -> None:
        pass
