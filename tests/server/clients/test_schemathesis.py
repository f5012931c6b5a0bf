"""Schemathesis, which makes requests up from the API's own description."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

import asteady
import asteady.server
from asteady.testing import FakeEngine
from tests.serving import serving

pytest.importorskip("schemathesis")
pytestmark = pytest.mark.anyio


async def test_requests_by_the_description_find_no_fault(tmp_path: Path) -> None:
    async with (
        asteady.Session(engine=FakeEngine()) as session,
        serving(asteady.server.openai(session)) as address,
    ):
        run = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json"),
            *("--phases", "coverage,fuzzing", "--max-examples", "5", "--seed", "1"),
            *("--continue-on-failure", "--no-color"),
            # What is not in the cache is a 504 where it may not be computed, as it should be.
            *("--header", "x-asteady-cache-mode: use"),
            # A schema cannot say which messages may follow each other, or what a model can do.
            *("--exclude-checks", "positive_data_acceptance"),
            cwd=tmp_path,  # it leaves files there
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await run.communicate()
    assert run.returncode == 0, output.decode()
    tested = re.search(r"Tested: (\d+)", output.decode())
    assert tested is not None
    assert int(tested[1]) == 7
