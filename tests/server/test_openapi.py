"""The API's description of itself: replies are as it says, and nothing that fits it is a fault."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

import asteady
import asteady.server
from asteady.testing import FakeEngine
from tests.serving import serving

pytestmark = pytest.mark.anyio

MESSAGES = [{"role": "user", "content": "one two"}]
REQUESTS: dict[str, dict[str, Any]] = {
    "/chat/completions": {"messages": MESSAGES, "temperature": None, "n": 2.0, "logprobs": True},
    "/completions": {"prompt": ["a", "b"], "logprobs": 1},
    "/embeddings": {"input": "a", "encoding_format": "base64"},
    "/responses": {"input": "a"},
}


async def description(api: httpx.AsyncClient) -> dict[str, Any]:
    found: dict[str, Any] = (await api.get("/openapi.json")).json()
    return found


def check(found: dict[str, Any], schema: Any, value: object) -> None:
    whole = {**schema, "components": found["components"]}
    jsonschema.validate(value, whole, cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize("path", REQUESTS)
async def test_requests_and_replies_are_as_described(api: httpx.AsyncClient, path: str) -> None:
    found = await description(api)
    assert found["servers"] == [{"url": "/v1"}]
    post = found["paths"][path]["post"]
    check(found, post["requestBody"]["content"]["application/json"]["schema"], REQUESTS[path])
    for body in (REQUESTS[path], {**REQUESTS[path], "model": "none"}):
        reply = await api.post(path, json=body)
        described = post["responses"][str(reply.status_code)]
        check(found, described["content"]["application/json"]["schema"], reply.json())
    assert reply.status_code == 404


async def test_every_path_is_described(api: httpx.AsyncClient) -> None:
    app = asteady.server.openai(asteady.Session())
    routes = {re.sub(":path", "", getattr(route, "path", "")) for route in app.routes}
    found = await description(api)
    assert {*found["paths"], "/openapi.json"} == routes
    for path in ("/models", "/models/{name}"):
        get = found["paths"][path]["get"]["responses"]["200"]
        reply = await api.get(path.replace("{name}", "other"))
        check(found, get["content"]["application/json"]["schema"], reply.json())


async def test_schemathesis_finds_no_fault(tmp_path: Path) -> None:
    pytest.importorskip("schemathesis", reason="schemathesis is not installed")
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
    assert int(tested[1]) == 6
