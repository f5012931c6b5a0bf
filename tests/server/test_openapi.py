"""The API's description of itself: requests and replies are as it says."""

from __future__ import annotations

import re
from typing import Any

import httpx
import jsonschema  # type: ignore[import-untyped]
import pytest

import asteady
import asteady.server

pytestmark = pytest.mark.anyio

MESSAGES = [{"role": "user", "content": "one two"}]
REQUESTS: dict[str, dict[str, Any]] = {
    "/chat/completions": {"messages": MESSAGES, "temperature": None, "n": 2.0, "logprobs": True},
    "/completions": {"prompt": ["a", "b"], "logprobs": 1},
    "/embeddings": {"input": "a", "encoding_format": "base64"},
    "/responses": {"input": "a"},
    "/tokenize": {"messages": MESSAGES},
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


async def test_a_models_fingerprint_is_told_as_described(api: httpx.AsyncClient) -> None:
    found = await description(api)
    get = found["paths"]["/models/{name}"]["get"]
    for kind, status in (("generation", 200), ("embedding", 200), ("both", 400)):
        reply = await api.get("/models/other", params={"kind": kind})
        assert reply.status_code == status
        described = get["responses"][str(status)]["content"]["application/json"]["schema"]
        check(found, described, reply.json())
        if status == 200:
            assert reply.json()["system_fingerprint"] == "fake-1"
