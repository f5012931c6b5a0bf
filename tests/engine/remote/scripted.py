"""A server that speaks OpenAI's API and answers as a test says."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

REFUSED = {"error": {"message": "no", "type": "server_error", "code": None}}


def chunk(delta: dict[str, Any], finish_reason: str | None = None, **choice: Any) -> dict[str, Any]:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish_reason, **choice}]
    return {"model": "m", "system_fingerprint": "f", "choices": choices}


def events(*data: dict[str, Any], done: bool = True) -> Response:
    """A whole stream of events."""
    parts = [f"data: {json.dumps(each)}\n\n" for each in data]
    if done:
        parts.append("data: [DONE]\n\n")
    return Response("".join(parts), media_type="text/event-stream")


def text_events(*texts: str) -> Response:
    usage = {"model": "m", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 9}}
    return events(*(chunk({"content": text}) for text in texts), chunk({}, "stop"), usage)


class Scripted:
    """An ASGI application. `answer` makes the reply to the body of a request for an answer; the
    requests are in `asked`, without those by which clients get to know the server."""

    def __init__(
        self,
        answer: Callable[[dict[str, Any]], Response] | None = None,
        *,
        owned_by: str = "somebody",
        models: tuple[str, ...] = ("m",),
        fingerprint: str | None = "f",
    ) -> None:
        self.answer = answer or (lambda body: text_events("an ", "answer"))
        self.owned_by = owned_by
        self.models = models
        self.fingerprint = fingerprint
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.app = Starlette(
            routes=[
                Route("/v1/models", self._list),
                Route("/v1/{path:path}", self._reply, methods=["POST"]),
            ]
        )

    async def _list(self, request: Request) -> Response:
        self.keys.append(request.headers.get("authorization"))
        return JSONResponse(
            {"data": [{"id": model, "owned_by": self.owned_by} for model in self.models]}
        )

    async def _reply(self, request: Request) -> Response:
        body = await request.json()
        if "stream" not in body and body.get("input", "a") == "a":
            return JSONResponse(
                {
                    "model": "m",
                    "system_fingerprint": self.fingerprint,
                    "data": [{"embedding": [1.0]}],
                    "choices": [],
                }
            )
        self.asked.append(body)
        return self.answer(body)
