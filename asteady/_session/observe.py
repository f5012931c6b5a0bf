"""Observers: called with the exact outcome of each call, also under concurrency.

The outcome (memory, disk, shared tier, a computation in progress, or one of its own) is recorded
where it happens; nothing is inferred from counters.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

import attrs

from asteady._base.public import public
from asteady._base.requests import Completion, Embedding, EmbedRequest, GenerateRequest, Key

logger = logging.getLogger("asteady")

Outcome: TypeAlias = Literal["memory", "disk", "shared", "coalesced", "computed", "failed"]
"""Answered from the memory tier, the disk or the shared tier; by a computation that another call
had begun; by one that this call began; or not at all, because it raised or was cancelled."""


@public
@attrs.frozen(kw_only=True, eq=False)
class Observed:
    """One call to `generate`, `complete`, `stream` or (for each text) `embed`, when it ended.

    `answer` is None if it failed, or if a stream was left before its end; `error` is what the
    caller got instead. `key` is None if it failed before it had one.
    """

    request: GenerateRequest | EmbedRequest
    model: str
    key: Key | None
    outcome: Outcome
    duration_s: float
    answer: Completion | Embedding | None = None
    error: BaseException | None = None

    @property
    def hit(self) -> bool:
        """Whether the cache had the answer."""
        return self.outcome in ("memory", "disk", "shared")


Observer: TypeAlias = Callable[[Observed], None]


class Observers:
    """The observers of one session. While there are none, `active` is False and nothing is done.

    They are added and removed on any thread: asteady.blocking does so on its caller's.
    """

    def __init__(self) -> None:
        self.active = False
        self._everywhere: list[Observer] = []
        self._count = 0
        self._counting = threading.Lock()
        self._here: contextvars.ContextVar[tuple[Observer, ...]] = contextvars.ContextVar(
            "asteady_observers", default=()
        )

    @contextmanager
    def observe(self, observer: Observer, *, everywhere: bool) -> Iterator[None]:
        """See `Session.observe`."""
        with self._counted():
            if everywhere:
                self._everywhere.append(observer)
                try:
                    yield
                finally:
                    self._everywhere.remove(observer)
            else:
                token = self._here.set((*self._here.get(), observer))
                try:
                    yield
                finally:
                    self._here.reset(token)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._counting:
            self._count += 1
            self.active = True
        try:
            yield
        finally:
            with self._counting:
                self._count -= 1
                self.active = self._count > 0

    def notify(self, observed: Observed) -> None:
        """Call all observers. An exception is logged, and does not reach the caller."""
        for observer in (*self._here.get(), *self._everywhere):
            try:
                observer(observed)
            except Exception:
                logger.exception("an observer raised")


class Watch:
    """Follows one call from its start to `ended`, for the observers of a session."""

    def __init__(
        self, observers: Observers, request: GenerateRequest | EmbedRequest, model: str
    ) -> None:
        self._observers = observers
        self._request = request
        self._model = model
        self._began_s = time.perf_counter()
        self.key: Key | None = None

    def ended(
        self,
        outcome: Outcome = "failed",
        answer: Completion | Embedding | None = None,
        error: BaseException | None = None,
    ) -> None:
        self._observers.notify(
            Observed(
                request=self._request,
                model=self._model,
                key=self.key,
                outcome=outcome if error is None else "failed",
                duration_s=time.perf_counter() - self._began_s,
                answer=answer,
                error=error,
            )
        )
