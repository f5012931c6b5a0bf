from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.applications import Starlette

import asteady
import asteady.server
from asteady.testing import FakeEngine
from tests.serving import serving


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def remote(
    session: asteady.Session, engine: FakeEngine, tmp_path: Path
) -> AsyncIterator[asteady.Session]:
    """A session whose models are those of `session`, which another "machine" serves."""
    app = Starlette()
    app.mount("/v1", asteady.server.openai(session))
    async with serving(app) as address:
        reference = f"openai+{address}#builtin"
        async with asteady.Session(
            generation_model=reference,
            embedding_model=reference,
            cache_dir=tmp_path / "elsewhere",
            workers=2,
        ) as remote:
            yield remote
            engine.resume()
