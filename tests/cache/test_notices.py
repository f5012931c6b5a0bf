"""The connection for notices, where it fails while it is made."""

from __future__ import annotations

import pytest

from asteady._cache.notices import Notices

pytestmark = pytest.mark.anyio


class LostConnection:
    """A subscription whose connection is lost before the first channel is subscribed to."""

    closed = 0

    async def subscribe(self, channel: str) -> None:
        raise ConnectionError(channel)

    async def aclose(self) -> None:
        self.closed += 1


async def test_a_connection_that_is_lost_while_it_subscribes_is_given_back() -> None:
    made: list[LostConnection] = []

    def connect() -> LostConnection:
        made.append(LostConnection())
        return made[-1]

    notices = Notices(connect)
    for _ in range(2):
        with pytest.raises(ConnectionError, match="a channel"):
            await notices.subscribe("a channel")
    # Else the client's pool would have one fewer each time.
    assert [each.closed for each in made] == [1, 1]
    await notices.aclose()
