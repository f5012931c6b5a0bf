"""Where engines come from: GGUF files in llama.cpp, or servers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from asteady._base.requests import Kind
from asteady._base.settings import REMOTE_PREFIX, Settings
from asteady._engine.api import ClosableTokenizer, Engine, MachineStatistics
from asteady._engine.loader import LlamaSource
from asteady._engine.remote.source import RemoteSource


class ModelSource:
    """The `EngineSource` of real sessions.

    A reference that begins with ``openai+`` names a model that servers compute, and any other one
    a GGUF model.
    """

    def __init__(self, settings: Settings) -> None:
        self._llama = LlamaSource(settings)
        self._remote = RemoteSource(settings)
        self.activities = self._llama.activities

    def machine(self) -> MachineStatistics | None:
        return self._llama.machine()

    def fingerprint(self, kind: Kind, reference: str) -> str:
        return self._of(reference).fingerprint(kind, reference)

    def identify(self, kind: Kind, reference: str, reading: Callable[[], None]) -> str:
        if is_remote(reference):
            return self._remote.fingerprint(kind, reference)
        return self._llama.identify(kind, reference, reading)

    def fingerprint_parts(self, kind: Kind, reference: str) -> Mapping[str, Any]:
        return self._of(reference).fingerprint_parts(kind, reference)

    def portable_fingerprint(self, fingerprint: str) -> str:
        if self._remote.has_identified(fingerprint):
            return fingerprint
        return self._llama.portable_fingerprint(fingerprint)

    def load(self, kind: Kind, reference: str) -> Engine:
        return self._of(reference).load(kind, reference)

    def tokenizer(self, kind: Kind, reference: str) -> ClosableTokenizer:
        return self._of(reference).tokenizer(kind, reference)

    def dimensions(self, reference: str) -> int:
        return self._of(reference).dimensions(reference)

    def check_reference(self, reference: str) -> None:
        self._of(reference).check_reference(reference)

    def fetch(self, reference: str, stopped: Callable[[], bool]) -> None:
        self._llama.fetch(reference, stopped)

    def _of(self, reference: str) -> LlamaSource | RemoteSource:
        return self._remote if is_remote(reference) else self._llama


def is_remote(reference: str) -> bool:
    return reference.startswith(REMOTE_PREFIX)
