from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette

import asteady
from asteady.testing import FakeEngine
from tests.serving import serving


@pytest.fixture
async def api(session: asteady.Session, engine: FakeEngine) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API of `session`, which is on a fake engine."""
    app = Starlette()
    app.mount("/v1", asteady.server.openai(session, models={"other": "builtin"}))
    async with (
        serving(app) as address,
        httpx.AsyncClient(base_url=f"{address}/v1", timeout=60) as client,
    ):
        yield client
        engine.resume()
