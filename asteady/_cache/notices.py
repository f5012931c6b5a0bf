"""Messages that are published on a server's channels, over one connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from asteady._base.tasks import unattended

log = logging.getLogger("asteady")


class Notices:
    """Wakes those that wait for a message on a channel. Used on one event loop.

    A wake-up may come without a message, and none is promised: a connection that is lost is
    made again by the next who subscribes, so everybody looks for himself from time to time. Without
    `connect`, as older clients of clusters have none, they have only that.
    """

    def __init__(self, connect: Callable[[], Any] | None) -> None:
        self._connect = connect
        self._pubsub: Any = None
        self._reader: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()
        self._waiting: dict[str, set[asyncio.Event]] = {}

    @contextmanager
    def waiting(self, channel: str) -> Iterator[asyncio.Event]:
        """An event that is set by messages on this channel, and when it has been subscribed to."""
        event = asyncio.Event()
        self._waiting.setdefault(channel, set()).add(event)
        try:
            yield event
        finally:
            self._waiting[channel].discard(event)
            if not self._waiting[channel]:
                del self._waiting[channel]

    async def subscribe(self, channel: str) -> None:
        """Raises what the connection raises."""
        if self._connect is None:
            return
        async with self._connecting:
            if self._reader is not None:
                await self._pubsub.subscribe(channel)
                return
            self._pubsub = pubsub = self._connect()
            try:
                await pubsub.subscribe(channel)
            except BaseException:
                with suppress(Exception):
                    await pubsub.aclose()
                raise
            self._reader = unattended(
                asyncio.create_task(self._read(pubsub), name="asteady notices")
            )

    async def unsubscribe(self, channel: str) -> None:
        """Unless somebody waits again. Raises what the connection raises."""
        if self._reader is not None and channel not in self._waiting:
            await self._pubsub.unsubscribe(channel)

    async def aclose(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])

    async def _read(self, pubsub: Any) -> None:
        try:
            while True:
                message = await pubsub.get_message(timeout=None)
                if message is not None:
                    for event in self._waiting.get(message["channel"].decode(), ()):
                        event.set()
        except Exception as exc:
            log.debug("the connection for notices of the shared cache ended: %s", exc)
        finally:
            self._reader = None
            with suppress(Exception):
                await pubsub.aclose()
