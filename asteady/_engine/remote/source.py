"""Where the engines of remote models come from."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from asteady._base.errors import RemoteError
from asteady._base.files import recall, remember
from asteady._base.forks import fork_gate
from asteady._base.requests import Kind
from asteady._base.settings import Settings
from asteady._base.validation import needs
from asteady._engine.remote.loop import run_privately
from asteady._engine.remote.reference import Address, RemoteReference

if TYPE_CHECKING:
    from asteady._engine.remote.engine import RemoteEngine
    from asteady._engine.remote.identity import Identity
    from asteady._engine.remote.tokenizer import RemoteTokenizer

_log = logging.getLogger("asteady")

_FILE = "remotes.json"


class RemoteSource:
    """The `EngineSource` of remote models.

    What a server said of itself is remembered in the cache directory, so that answers that are in
    the cache are found while no server can be reached.
    """

    def __init__(self, settings: Settings) -> None:
        self._requests = settings.workers
        self._file = settings.cache_dir / _FILE
        self._known: dict[tuple[Kind, str], Identity] = {}
        # Those that were identified and not loaded since, and by whom.
        self._fresh: dict[tuple[Kind, str], Address | None] = {}
        self._lock = threading.Lock()

    def fingerprint(self, kind: Kind, reference: str) -> str:
        """
        Raises:
            SettingsError: httpx is not installed, or the variable with the API key is not set.
            RemoteBusyError: the servers are overloaded, or not ready.
            RemoteUnavailableError: they cannot be reached.
            RemoteError: they sent what is no answer, or nothing for too long.
            ModelError: they do not serve the model, or do not take the API key.
        """
        identity, by = self._identify(kind, RemoteReference.parse(reference))
        with self._lock:
            self._known[kind, reference] = identity
            self._fresh[kind, reference] = by
        return identity.fingerprint

    def fingerprint_parts(self, kind: Kind, reference: str) -> Mapping[str, Any]:
        """What a fingerprint is made of; of asteady's models only their servers know that."""
        with self._lock:
            known = self._known.get((kind, reference))
        if known is None:
            known, _ = self._identify(kind, RemoteReference.parse(reference))
        return known.parts

    def has_identified(self, fingerprint: str) -> bool:
        """Whether it is that of a remote model; from any thread, at once."""
        with self._lock:
            return any(known.fingerprint == fingerprint for known in self._known.values())

    def dimensions(self, reference: str) -> int:
        """Those of whole vectors of a model that was identified; 0 if unknown."""
        with self._lock:
            known = self._known.get(("embedding", reference))
        return 0 if known is None else known.dimensions

    def check_reference(self, reference: str) -> None:
        """Raises:
        ModelNotFoundError: it is no reference of a remote model.
        """
        RemoteReference.parse(reference)

    def load(self, kind: Kind, reference: str) -> RemoteEngine:
        """Raises as `fingerprint` does."""
        parsed = RemoteReference.parse(reference)
        key = (kind, reference)
        with self._lock:
            known = key in self._fresh
            identity, by = self._known.get(key), self._fresh.pop(key, None)
        if identity is None or not known:
            identity, by = self._identify(kind, parsed)
            with self._lock:
                self._known[key] = identity
        with fork_gate:
            from asteady._engine.remote.engine import RemoteEngine

        return RemoteEngine(parsed, kind, identity, self._requests, by)

    def tokenizer(self, kind: Kind, reference: str) -> RemoteTokenizer:
        """Raises as `fingerprint` does, and ModelCapabilityError if no server tells tokens."""
        parsed = RemoteReference.parse(reference)
        with self._lock:
            known = self._known.get((kind, reference))
        if known is None:
            known, _ = self._identify(kind, parsed)
        with fork_gate:
            from asteady._engine.remote.tokenizer import RemoteTokenizer

        return RemoteTokenizer(parsed, known)

    def _identify(self, kind: Kind, reference: RemoteReference) -> tuple[Identity, Address | None]:
        """The model, and the server that said so; None if none could be asked."""
        with fork_gate:
            needs("httpx", extra="remote")
            from asteady._engine.remote.identity import find

        key = f"{kind} {reference.text}"
        known = _restored(recall(self._file, key))
        try:
            # Nobody has to wait for a server that is away if its answers are known.
            found, by = run_privately(find(kind, reference, retries=None if known is None else 0))
        except RemoteError as exc:
            if known is None:
                raise
            _log.warning("%s; its answers that are in the cache can be used", exc)
            return known, None
        if found != known:
            remember(self._file, key, attrs.asdict(found))
        return found, by


def _restored(described: Any) -> Identity | None:
    from asteady._engine.remote.identity import Identity

    try:
        return Identity(**described)
    except TypeError:  # there is none, or another version remembered it
        return None
