"""``asteady serve``: what it serves, and to whom."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import cast

import httpx
import pytest

from tests.server.serve_process import ServeProcess, client_of, question, serve_process

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[ServeProcess, str]]:
    with serve_process(
        "--port", "0", "--model", "me=builtin", "--max-body-mb", "0.01", "--max-messages", "3"
    ) as process:
        address = process.address()
        process.wait_printed("Ctrl-C")
        yield process, address


@pytest.fixture
def client(server: tuple[ServeProcess, str]) -> Iterator[httpx.Client]:
    with client_of(server[1]) as client:
        yield client


def test_it_says_how_to_ask(server: tuple[ServeProcess, str]) -> None:
    process, address = server
    printed = "".join(process.printed)
    assert address.startswith("http://127.0.0.1:")
    assert "models: me, builtin" in printed
    assert f"curl {address}{CHAT} --json" in printed
    assert f"{address}/dashboard/" in printed


def test_it_answers_as_the_library(client: httpx.Client) -> None:
    reply = client.post(CHAT, json=question("Hello"))
    assert reply.status_code == 200
    answer = reply.json()
    assert answer["choices"][0]["message"]["content"]
    named = client.post(CHAT, json=question("Hello", model="me")).json()
    assert named["choices"] == answer["choices"]
    with client.stream("POST", CHAT, json=question("Hello", stream=True)) as streamed:
        lines = [line for line in streamed.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    text = "".join(
        json.loads(line[6:])["choices"][0]["delta"].get("content", "") for line in lines[:-1]
    )
    assert text == answer["choices"][0]["message"]["content"]
    vector = client.post("/v1/embeddings", json={"input": "a"}).json()["data"][0]["embedding"]
    assert len(vector) == 256


def test_models_without_a_name_are_not_there(client: httpx.Client) -> None:
    assert [m["id"] for m in client.get("/v1/models").json()["data"]] == ["builtin", "me"]
    for name in ("smollm2", "/etc/passwd", "../x.gguf"):
        reply = client.post(CHAT, json=question("Hello", model=name))
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")


def test_limits_of_a_request(client: httpx.Client) -> None:
    reply = client.post(CHAT, json=question("a" * 20_000))
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")
    reply = client.post(CHAT, content=iter([b" " * 9_000, b" " * 9_000]))
    assert reply.status_code == 413
    turns = [{"role": role, "content": "a"} for role in ("user", "assistant", "user", "user")]
    reply = client.post(CHAT, json={"messages": turns})
    assert reply.status_code == 400
    assert reply.json()["error"]["message"] == "messages: 4 are given, and 3 allowed"
    assert client.post(CHAT, json={"messages": turns[:3], "max_tokens": 1}).status_code == 200


def test_metrics_and_health(client: httpx.Client) -> None:
    client.post(CHAT, json=question("Count me"))
    metrics = client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'asteady_cache_lookups_total{cache="generation",result="miss"}' in metrics.text
    assert "process_resident_memory_bytes" in metrics.text
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/health/live").status_code == 200


def test_the_dashboard_is_there_for_this_machine(client: httpx.Client) -> None:
    assert client.get("/").headers["location"] == "/dashboard/"
    page = client.get("/dashboard/")
    assert page.headers["content-type"].startswith("text/html")
    assert client.get("/dashboard", follow_redirects=True).text == page.text
    assert client.get("/dashboard/data").json()


def test_the_dashboard_is_not_there_for_others_unless_asked_for() -> None:
    for options, status in ([], 404), (["--dashboard"], 200):
        with (
            serve_process(
                *("--port", "0", "--host", "0.0.0.0", "--insecure", *options), fake=True
            ) as process,
            client_of(process.address().replace("0.0.0.0", "127.0.0.1")) as client,
        ):
            # Nobody says by what names other machines call it.
            reply = client.get("/dashboard/", headers={"host": "any.example"})
            assert reply.status_code == status


def test_an_unknown_path_says_where_the_api_is(client: httpx.Client) -> None:
    reply = client.post("/chat/completions", json={})
    assert reply.status_code == 404
    assert "/v1" in reply.json()["error"]["message"]
    assert client.delete("/metrics").status_code == 405


def test_other_names_and_other_sites_are_refused(client: httpx.Client) -> None:
    for headers in (
        {"host": "evil.example"},
        {"host": "evil.example:8080"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://["},
    ):
        reply = client.post(CHAT, json=question("Hello"), headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "forbidden"), headers
        assert "access-control-allow-origin" not in reply.headers
    port = client.base_url.port
    for headers in ({"host": f"localhost:{port}"}, {"origin": f"http://localhost:{port}"}):
        assert client.get("/v1/models", headers=headers).status_code == 200, headers


def test_keys_and_origins() -> None:
    with (
        serve_process(
            *(
                "--port",
                "0",
                "--api-key",
                "one",
                "--api-key",
                "two",
                "--cors-origin",
                "https://My.app/",
            ),
            fake=True,
        ) as process,
        client_of(process.address()) as client,
    ):

        def status(path: str = "/v1/models", **headers: str) -> int:
            sent = {name: value.encode("latin-1") for name, value in headers.items()}
            return client.get(path, headers=cast("dict[str, str]", sent)).status_code

        for key in ("one", "two"):
            assert status(authorization=f"Bearer {key}") == 200
        for wrong in ("Bearer on", "Bearer onee", "Bearer", "one", "Basic ?", "Bearer \xe9"):
            assert status(authorization=wrong) == 401, wrong
        refused = client.post(CHAT, json=question("1"))
        assert refused.status_code == 401
        assert refused.json()["error"]["code"] == "invalid_api_key"
        assert refused.headers["www-authenticate"] == "Bearer"
        for path in ("/metrics", "/nowhere", "/healthy"):
            assert status(path) == 401, path
        basic = base64.b64encode(b"anybody:two").decode()
        assert status("/metrics", authorization=f"Basic {basic}") == 200
        assert client.get("/metrics").headers["www-authenticate"].startswith("Basic")
        # Probes have no key, and with a key any name will do.
        assert status("/health/live", host="any.example") == 200
        assert status(authorization="Bearer one", host="any.example") == 200
        asked = {"origin": "https://my.app", "access-control-request-method": "POST"}
        allowed = client.options(CHAT, headers=asked)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://my.app"
        other = client.options(CHAT, headers={**asked, "origin": "https://other.app"})
        assert "access-control-allow-origin" not in other.headers
