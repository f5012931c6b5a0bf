"""POST /chat/completions."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import attrs

from asteady._base.messages import ToolCall
from asteady._base.requests import ReasoningChunk, TextChunk
from asteady.server._openai.choices import Answer, Choices, usage_of
from asteady.server._openai.endpoint import Asked, Endpoint, Reply, event, json_bytes
from asteady.server._openai.errors import refused
from asteady.server._openai.logprobs import logprob_record
from asteady.server._openai.options import (
    check_fields,
    choices_of,
    flag,
    logprobs_of,
    sampling_options,
    tool_and_form_options,
    wants_usage,
    with_effort,
    with_seed_of,
)

CHAT_FIELDS = frozenset(
    {
        *("model", "messages", "n", "stream", "stream_options", "logprobs", "top_logprobs"),
        *("response_format", "tools", "tool_choice", "parallel_tool_calls", "reasoning_effort"),
    }
)


@attrs.frozen
class _Head:
    """What each object about one request begins with; the choices come last."""

    id: str
    created: int
    model: str
    fingerprint: str

    def of(self, kind: str, choices: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }


class ChatCompletions(Endpoint):
    """Answers to conversations."""

    conversation = "messages"

    async def reply(self, asked: Asked) -> Reply:
        body = asked.body
        check_fields(body, CHAT_FIELDS)
        name, reference = self.served.find("generation", body.get("model"))
        streamed = flag(body, "stream")
        several_calls = flag(body, "parallel_tool_calls", True)
        with_usage = wants_usage(body) and streamed
        arguments = {"model": reference, **chat_options(body, self.most_tokens)}
        number = choices_of(body)
        choices = await Choices.open(
            asked, self.session, [with_seed_of(arguments, index) for index in range(number)]
        )
        head = _Head(f"chatcmpl-{choices.key[:32]}", int(time.time()), name, choices.fingerprint)
        if streamed:
            events = _events(choices, head, several_calls, with_usage)
            return Reply(events, choices.headers, choices.ready)
        answers = await choices.answers(asked)
        content = head.of(
            "chat.completion",
            [_choice(index, answer, several_calls) for index, answer in enumerate(answers)],
        )
        return Reply({**content, "usage": usage_of(answers, number)}, choices.headers)


def chat_options(body: Mapping[str, Any], most_tokens: int | None) -> dict[str, Any]:
    """The library's options of a conversation.

    Raises:
        ApiError: a field is not allowed.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise refused("messages", "a list of at least one message is needed")
    options = {
        "messages": [_message(message) for message in messages],
        **sampling_options(body, most_tokens),
        **tool_and_form_options(body, body.get("response_format")),
    }
    if (effort := body.get("reasoning_effort")) is not None:
        options.update(with_effort(options, effort, "reasoning_effort"))
    if (logprobs := logprobs_of(body)) is not None:
        options["logprobs"] = logprobs
    return options


def _message(message: Any) -> Any:
    """Templates do not know OpenAI's newer name of the system's role."""
    if isinstance(message, dict) and message.get("role") == "developer":
        return {**message, "role": "system"}
    return message


def _choice(index: int, answer: Answer, several_calls: bool) -> dict[str, Any]:
    calls = _calls(answer.tool_calls, several_calls)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if calls and not answer.text else answer.text,
        "refusal": None,
    }
    if answer.reasoning is not None:
        message["reasoning_content"] = answer.reasoning
    if calls:
        message["tool_calls"] = calls
    return {
        "index": index,
        "message": message,
        "logprobs": _logprobs(answer),
        "finish_reason": answer.finish_reason,
        **answer.incomplete(),
    }


def _calls(calls: Sequence[ToolCall], several: bool) -> list[dict[str, Any]]:
    return [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments_json},
        }
        for call in (calls if several else calls[:1])
    ]


def _logprobs(answer: Answer, sent: int = 0) -> dict[str, Any] | None:
    """Those of the text, without those that were sent already; those of the reasoning before it are
    no part of OpenAI's API."""
    completion = answer.completion
    if completion is None or completion.logprobs is None:
        return None
    records = [logprob_record(each) for each in completion.logprobs]
    reasoning = completion.reasoning_tokens
    found: dict[str, Any] = {"content": records[reasoning + sent :], "refusal": None}
    if reasoning:
        found["reasoning_content"] = records[:reasoning]
    return found if any(found.values()) or not sent else None


async def _events(
    choices: Choices, head: _Head, several_calls: bool, with_usage: bool
) -> AsyncIterator[bytes]:
    """The chunks as OpenAI's clients read them: the role, the pieces, the end of each choice, the
    usage if it is asked for, and [DONE]."""

    # The same for all chunks.
    begin = b"data: " + json_bytes(head.of("chat.completion.chunk", []))[:-2]
    end = b'],"usage":null}\n\n' if with_usage else b"]}\n\n"

    def chunk(
        index: int,
        delta: dict[str, Any],
        answer: Answer | None = None,
        logprobs: dict[str, Any] | None = None,
    ) -> bytes:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": None if answer is None else answer.finish_reason,
            **({} if answer is None else answer.incomplete()),
        }
        return begin + json_bytes(choice) + end

    begun: set[int] = set()
    called: dict[int, int] = {}
    sent: Counter[int] = Counter()  # log probabilities
    answers: dict[int, Answer] = {}
    async for index, found in choices.events():
        if index not in begun:
            begun.add(index)
            yield chunk(index, {"role": "assistant", "content": ""})
        match found:
            case TextChunk(text, tokens):
                logprobs = None
                if tokens:
                    sent[index] += len(tokens)
                    logprobs = {"content": list(map(logprob_record, tokens)), "refusal": None}
                yield chunk(index, {"content": text}, logprobs=logprobs)
            case ReasoningChunk(text):
                yield chunk(index, {"reasoning_content": text})
            case ToolCall():
                place = called.setdefault(index, 0)
                called[index] += 1
                if several_calls or place == 0:
                    (call,) = _calls([found], True)
                    yield chunk(index, {"tool_calls": [{"index": place, **call}]})
            case Answer():
                answers[index] = found
                yield chunk(index, {}, found, _logprobs(found, sent[index]))
    if with_usage:
        content = head.of("chat.completion.chunk", [])
        yield event(
            {**content, "usage": usage_of([answers[at] for at in sorted(answers)], len(answers))}
        )
    yield b"data: [DONE]\n\n"
