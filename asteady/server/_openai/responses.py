"""POST /responses."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from asteady._base.messages import ToolCall
from asteady._base.requests import ReasoningChunk, StreamEvent, TextChunk
from asteady.server._openai.choices import Answer, Choices, usage_of
from asteady.server._openai.endpoint import Asked, Endpoint, Reply, event
from asteady.server._openai.errors import api_error, refused
from asteady.server._openai.logprobs import logprob_record
from asteady.server._openai.options import (
    check_fields,
    flag,
    sampling_options,
    tool_and_form_options,
    with_effort,
)
from asteady.server._openai.response_input import messages_of_items
from asteady.server._openai.response_output import ResponseWriter

_KNOWN = frozenset(
    {
        *("model", "input", "instructions", "stream", "text", "tools", "tool_choice", "metadata"),
        *("parallel_tool_calls", "reasoning", "include", "top_logprobs", "store", "background"),
        *("previous_response_id", "conversation", "prompt"),
    }
)
_STATELESS = "nothing is stored here between requests: send the conversation as input"
# What cannot be had from a server that stores no responses.
_REFUSED = {
    "background": "answers are not computed in the background: set stream",
    "conversation": _STATELESS,
    "previous_response_id": _STATELESS,
    "prompt": "no templates are stored here: send instructions and input",
    "store": "responses are not stored here: leave it out, or false",
}
_LOGPROBS = "message.output_text.logprobs"
_MOST_LOGPROBS = 20


class Responses(Endpoint):
    """Answers of OpenAI's newer API. Like chat, it has no state."""

    conversation = "input"
    subject = "input"

    async def reply(self, asked: Asked) -> Reply:
        body = asked.body
        check_fields(body, _KNOWN)
        for name, reason in _REFUSED.items():
            if body.get(name) is not None and body[name] is not False:
                raise refused(name, reason)
        name, reference = self.served.find("generation", body.get("model"))
        streamed = flag(body, "stream")
        arguments = self._arguments(body)
        response = {**_frame(body, arguments), "model": name}
        choices = await Choices.open(asked, self.session, [{"model": reference, **arguments}])
        writer = ResponseWriter(response, choices.key[:32])
        several_calls = bool(response["parallel_tool_calls"])
        if streamed:
            return Reply(_events(choices, writer, several_calls), choices.headers, choices.ready)
        (answer,) = await choices.answers(asked)
        return Reply(_whole(answer, writer, several_calls), choices.headers)

    def _arguments(self, body: Mapping[str, Any]) -> dict[str, Any]:
        text, reasoning = (_object(body, name) for name in ("text", "reasoning"))
        arguments = {
            "messages": messages_of_items(body.get("input"), body.get("instructions")),
            **sampling_options(body, self.most_tokens),
            **tool_and_form_options(body, text.get("format"), "text.format"),
        }
        if (effort := reasoning.get("effort")) is not None:
            arguments.update(with_effort(arguments, effort, "reasoning.effort"))
        if (logprobs := _logprobs_of(body)) is not None:
            arguments["logprobs"] = logprobs
        return arguments


def _object(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise refused(name, f"an object is needed, not {value!r}"[:200])
    return value


def _logprobs_of(body: Mapping[str, Any]) -> int | None:
    """How many alternatives of each token are asked for; None if no log probabilities are."""
    top, include = body.get("top_logprobs"), body.get("include")
    include = [] if include is None else include
    if not isinstance(include, list):
        raise refused("include", "a list is needed")
    if top is None:
        return 0 if _LOGPROBS in include else None
    if isinstance(top, bool) or not isinstance(top, int) or not 0 <= top <= _MOST_LOGPROBS:
        raise refused(
            "top_logprobs", f"a number from 0 to {_MOST_LOGPROBS} is needed, not {top!r}"[:200]
        )
    return top if top or _LOGPROBS in include else None


def _frame(body: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a response tells of its request, and what is filled in later."""
    text, reasoning = _object(body, "text"), _object(body, "reasoning")
    return {
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": _object(body, "metadata"),
        "parallel_tool_calls": flag(body, "parallel_tool_calls", True),
        "previous_response_id": None,
        "reasoning": {"effort": reasoning.get("effort"), "summary": None},
        "store": False,
        "temperature": arguments.get("temperature", 0.0),
        "text": {"format": {"type": "text"}, **text},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_logprobs": body.get("top_logprobs") or 0,
        "top_p": arguments.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": None,
        "user": body.get("user"),
    }


def _usage(answer: Answer) -> dict[str, Any]:
    found = usage_of([answer], 1)
    return {
        "input_tokens": found["prompt_tokens"],
        "input_tokens_details": found["prompt_tokens_details"],
        "output_tokens": found["completion_tokens"],
        "output_tokens_details": found["completion_tokens_details"],
        "total_tokens": found["total_tokens"],
    }


def _logprobs(answer: Answer) -> list[dict[str, Any]]:
    """Those of the text: reasoning comes before it."""
    completion = answer.completion
    if completion is None or completion.logprobs is None:
        return []
    return [logprob_record(each) for each in completion.logprobs[completion.reasoning_tokens :]]


def _whole(answer: Answer, writer: ResponseWriter, several_calls: bool) -> dict[str, Any]:
    """The response that the events lead to, without sending them."""
    pieces: list[StreamEvent] = []
    if answer.reasoning:
        pieces.append(ReasoningChunk(answer.reasoning))
    if answer.text:
        pieces.append(TextChunk(answer.text))
    pieces += answer.tool_calls if several_calls else answer.tool_calls[:1]
    for piece in pieces:
        deque(writer.chunk(piece), 0)
    *_, last = _end(answer, writer)
    response: dict[str, Any] = last["response"]
    return response


def _end(answer: Answer, writer: ResponseWriter) -> Iterator[dict[str, Any]]:
    cut = answer.finish_reason == "length"
    return writer.end(_usage(answer), cut=cut, logprobs=_logprobs(answer))


async def _events(
    choices: Choices, writer: ResponseWriter, several_calls: bool
) -> AsyncIterator[bytes]:
    """All events. The first ones come with the first piece: until then an error has a status."""
    begun = called = False
    try:
        async for _, found in choices.events():
            if not begun:
                begun = True
                for each in writer.begin():
                    yield _sent(each)
            if isinstance(found, ToolCall):
                if called and not several_calls:
                    continue
                called = True
            events = _end(found, writer) if isinstance(found, Answer) else writer.chunk(found)
            for each in events:
                yield _sent(each)
    except Exception as exc:
        if not begun:
            raise
        error = api_error(exc).body
        for each in writer.fail(error["code"] or "server_error", error["message"] or ""):
            yield _sent(each)


def _sent(found: Mapping[str, Any]) -> bytes:
    return event(found, found["type"])
