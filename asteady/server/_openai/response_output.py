"""From an answer to the object and the events of OpenAI's Responses API."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from asteady._base.messages import ToolCall
from asteady._base.requests import ReasoningChunk, StreamEvent, TextChunk
from asteady.server._openai.logprobs import logprob_record

Item = dict[str, Any]
Event = dict[str, Any]

# What an item of text is called, what its part is called, and how its id begins.
_KINDS = {"message": ("output_text", "msg"), "reasoning": ("reasoning_text", "rs")}


class ResponseWriter:
    """Writes the events of one response, and the object that they lead to; lives for one request.

    Without streaming the events are not sent: the last one has the object. So both ways to ask have
    the same output.
    """

    def __init__(self, response: Mapping[str, Any], digest: str) -> None:
        self._response = {"id": f"resp_{digest}", **response, "output": []}
        self._digest = digest
        self._number = 0
        self._items: list[Item] = []
        self._kind: str | None = None  # of the item that is written
        self._texts: list[str] = []

    def begin(self) -> Iterator[Event]:
        """The events before anything of the answer."""
        for name in ("created", "in_progress"):
            yield self._event(name, response={**self._response, "status": "in_progress"})

    def chunk(self, chunk: StreamEvent) -> Iterator[Event]:
        """The events that a piece of the answer leads to; none for a kind that is not known."""
        match chunk:
            case TextChunk(text, tokens):
                logprobs = [logprob_record(token) for token in tokens]
                yield from self._write("message", text, logprobs=logprobs)
            case ReasoningChunk(text):
                yield from self._write("reasoning", text)
            case ToolCall():
                yield from self._call(chunk)

    def end(
        self, usage: Mapping[str, Any], *, cut: bool, logprobs: Sequence[Mapping[str, Any]] = ()
    ) -> Iterator[Event]:
        """The last events; the very last has the whole response. `cut` says that its tokens were
        not enough."""
        if not any(item["type"] != "reasoning" for item in self._items) and self._kind != "message":
            yield from self._close()
            yield from self._open("message")
        status = "incomplete" if cut else "completed"
        yield from self._close(status, logprobs)
        response = {
            **self._response,
            "status": status,
            "completed_at": None if cut else int(time.time()),
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": self._items,
            "usage": usage,
        }
        yield self._event(status, response=response)

    def fail(self, code: str, message: str) -> Iterator[Event]:
        """The last event of a response whose computation failed after its beginning was sent."""
        error = {"code": code, "message": message}
        yield self._event(
            "failed",
            response={**self._response, "status": "failed", "error": error, "output": self._items},
        )

    def _write(self, kind: str, text: str, **more: Any) -> Iterator[Event]:
        if self._kind != kind:
            yield from self._close()
            yield from self._open(kind)
        self._texts.append(text)
        yield self._text_event("delta", delta=text, **more)

    def _open(self, kind: str) -> Iterator[Event]:
        self._kind = kind
        yield self._item_event("added", self._item("in_progress", []))
        yield self._event("content_part.added", **self._place(), part=self._part("", ()))

    def _close(
        self, status: str = "completed", logprobs: Sequence[Mapping[str, Any]] = ()
    ) -> Iterator[Event]:
        if self._kind is None:
            return
        text = "".join(self._texts)
        part = self._part(text, logprobs)
        more = {"logprobs": list(logprobs)} if self._kind == "message" else {}
        yield self._text_event("done", text=text, **more)
        yield self._event("content_part.done", **self._place(), part=part)
        item = self._item(status, [part])
        yield self._item_event("done", item)
        self._items.append(item)
        self._kind = None
        self._texts.clear()

    def _call(self, call: ToolCall) -> Iterator[Event]:
        yield from self._close()
        item = {
            "id": f"fc_{call.id}",
            "type": "function_call",
            "status": "completed",
            "call_id": call.id,
            "name": call.name,
            "arguments": call.arguments_json,
        }
        place = {"item_id": item["id"], "output_index": len(self._items)}
        event = "function_call_arguments"
        yield self._item_event("added", {**item, "status": "in_progress", "arguments": ""})
        yield self._event(f"{event}.delta", **place, delta=call.arguments_json)
        yield self._event(f"{event}.done", **place, name=call.name, arguments=call.arguments_json)
        yield self._item_event("done", item)
        self._items.append(item)

    def _event(self, name: str, /, **fields: Any) -> Event:
        event = {"type": f"response.{name}", "sequence_number": self._number, **fields}
        self._number += 1
        return event

    def _item_event(self, name: str, item: Item) -> Event:
        return self._event(f"output_item.{name}", output_index=len(self._items), item=item)

    def _text_event(self, name: str, **fields: Any) -> Event:
        assert self._kind is not None
        return self._event(f"{_KINDS[self._kind][0]}.{name}", **self._place(), **fields)

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._id(), "output_index": len(self._items), "content_index": 0}

    def _id(self) -> str:
        assert self._kind is not None
        return f"{_KINDS[self._kind][1]}_{self._digest}"

    def _part(self, text: str, logprobs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        if self._kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}

    def _item(self, status: str, content: list[dict[str, Any]]) -> Item:
        if self._kind == "reasoning":
            more: dict[str, Any] = {"summary": [], "content": content}
        else:
            more = {"role": "assistant", "content": content}
        return {"id": self._id(), "type": self._kind, "status": status, **more}
