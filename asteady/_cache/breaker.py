"""A circuit breaker: what does not answer is left alone until it does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from asteady._base.tasks import unattended


class CircuitBreaker:
    """Closed while calls succeed. A failure opens it; then a probe in the background is tried again
    and again, at growing intervals, and the first that succeeds closes it. `changed` is called with
    the failure, and with None afterwards; for a failure that is not certain, only if the first
    probe, which is made at once, fails too.

    So a server that is down delays the calls at that moment, and none of those that come later.
    Used on one event loop; no clock of the machine matters.
    """

    def __init__(
        self,
        probe: Callable[[], Awaitable[object]],
        changed: Callable[[Exception | None], None],
        *,
        first_s: float = 0.25,
        last_s: float = 8.0,
    ) -> None:
        self._probe = probe
        self._changed = changed
        self._first_s = first_s
        self._last_s = last_s
        self._probing: asyncio.Task[None] | None = None
        # A failure that is not certain yet.
        self._suspected: Exception | None = None

    @property
    def closed(self) -> bool:
        return self._probing is None

    def fail(self, error: Exception, *, certain: bool = True) -> None:
        """A call has failed: no others, until a probe succeeds."""
        if self._probing is not None:
            return
        if certain:
            self._changed(error)
        else:
            self._suspected = error
        self._probing = unattended(
            asyncio.create_task(self._recover(), name="asteady circuit breaker")
        )

    def stop(self) -> None:
        if self._probing is not None:
            self._probing.cancel()
            self._confirm()

    def _confirm(self) -> None:
        error, self._suspected = self._suspected, None
        if error is not None:
            self._changed(error)

    async def _recover(self) -> None:
        pause_s = 0.0 if self._suspected is not None else self._first_s
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self._probe()
            except Exception:
                self._confirm()
                pause_s = min(max(2 * pause_s, self._first_s), self._last_s)
            else:
                break
        self._probing = None
        if self._suspected is None:
            self._changed(None)
        self._suspected = None
