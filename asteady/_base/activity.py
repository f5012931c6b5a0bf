"""What is going on that requests wait for: downloads, digests, loading, prompts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Literal, TypeAlias

import attrs

from asteady._base.public import public
from asteady._base.records import Record

_log = logging.getLogger("asteady")

# What takes longer is said: in the log at its end, and by the command line while it goes on.
NOTICEABLE_S = 0.5

Phase: TypeAlias = Literal["downloading", "identifying", "loading", "prompt", "waiting"]
"""Fetching a model's files; reading them to compute their digest; loading the weights; computing a
prompt before its first token; waiting for another process that computes the same answer."""

# By phase: what the log says at its end. The engine itself logs that it has loaded a model.
_ENDED: dict[Phase, str] = {
    "downloading": "fetched the files of",
    "identifying": "computed the digest of",
    "prompt": "computed a prompt for",
    "waiting": "waited for another process to compute an answer of",
}


@public
@attrs.frozen(kw_only=True)
class Activity(Record):
    """Something that a session is busy with, and that requests wait for; see `SessionStatistics`.

    `subject` is the model's reference or the path of its file. `done` and `total` are bytes
    ("downloading", "identifying", "loading") or tokens ("prompt"); `total` is 0 where there is no
    measure. `seconds` is how long it has been going on.
    """

    phase: Phase
    subject: str
    done: int = 0
    total: int = 0
    seconds: float = 0.0


class Running:
    """An activity in progress, for the one thread that does it."""

    def __init__(self, phase: Phase, subject: str, total: int) -> None:
        self.phase: Phase = phase
        self.subject = subject
        self.total = total
        self.done = 0
        self.began = perf_counter()


class Activities:
    """The activities of one session. Any thread may begin, end and read them.

    What has taken `log_after_s` seconds or longer is logged when it ends.
    """

    def __init__(self, log_after_s: float = NOTICEABLE_S) -> None:
        self._log_after_s = log_after_s
        # In the order in which they began. A dictionary's single operations need no lock.
        self._running: dict[Running, None] = {}

    def begin(self, phase: Phase, subject: str, total: int = 0) -> Running:
        running = Running(phase, subject, total)
        self._running[running] = None
        return running

    def end(self, running: Running) -> None:
        """Idempotent."""
        if running not in self._running:
            return
        del self._running[running]
        seconds = perf_counter() - running.began
        if seconds < self._log_after_s or running.phase not in _ENDED:
            return
        size = ""
        if running.total:
            unit = " tokens" if running.phase == "prompt" else " bytes"
            of = f" of {running.total:,}" if running.done != running.total else ""
            size = f" ({running.done:,}{of}{unit})"
        _log.info("%s %s%s in %.2f s", _ENDED[running.phase], running.subject, size, seconds)

    @contextmanager
    def during(self, phase: Phase, subject: str, total: int = 0) -> Iterator[Running]:
        running = self.begin(phase, subject, total)
        try:
            yield running
        finally:
            self.end(running)

    def now(self) -> tuple[Activity, ...]:
        """What is going on, the oldest first."""
        at_s = perf_counter()
        return tuple(
            Activity(
                phase=running.phase,
                subject=running.subject,
                done=running.done,
                total=running.total,
                seconds=at_s - running.began,
            )
            for running in list(self._running)
        )
