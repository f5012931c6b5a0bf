"""instructor."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.clients.city import ASK_CITY, City

instructor: Any = pytest.importorskip("instructor", reason="install the dependency group clients")

pytestmark = pytest.mark.anyio

MODES = pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA", "RESPONSES_TOOLS"])
ASKED: Any = {"messages": [{"role": "user", "content": ASK_CITY}], "response_model": City}


@MODES
def test_create(url: str, chat: str, mode: str) -> None:
    import openai

    with openai.OpenAI(base_url=url, api_key="none") as own:
        client = instructor.from_openai(own, mode=getattr(instructor.Mode, mode))
        assert isinstance(client.create(model=chat, **ASKED), City)


async def test_create_async_and_in_parts(url: str, chat: str) -> None:
    import openai

    async with openai.AsyncOpenAI(base_url=url, api_key="none") as own:
        client = instructor.from_openai(own)
        assert isinstance(await client.create(model=chat, **ASKED), City)
        parts = [part async for part in client.create_partial(model=chat, **ASKED)]
    assert City.model_validate(parts[-1].model_dump())
