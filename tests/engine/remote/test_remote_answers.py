"""What is asked of the kinds of servers, and how their answers are read."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from starlette.responses import JSONResponse, Response

import asteady
from asteady import ReasoningChunk, TextChunk, ToolCall
from tests.engine.remote.scripted import Scripted, chunk, events
from tests.serving import serving

pytestmark = pytest.mark.anyio

TOOL = {"name": "f", "parameters": {"properties": {"x": {"type": "integer"}}}}


@asynccontextmanager
async def asking(server: Scripted) -> AsyncIterator[asteady.Session]:
    async with serving(server.app) as address:
        reference = f"openai+{address}#m"
        async with asteady.Session(
            generation_model=reference, embedding_model=reference, workers=2
        ) as session:
            yield session


def answering(text: str, reason: str = "stop") -> Any:
    return lambda body: events(chunk({"content": text}, reason))


async def test_reasoning_text_and_calls_come_in_pieces() -> None:
    function = [{"index": 1, "id": "a", "function": {"name": "f", "arguments": ""}}]
    server = Scripted(
        lambda body: events(
            chunk({"role": "assistant", "content": None}),
            chunk({"reasoning_content": "I "}),
            chunk({"reasoning": "think"}),
            chunk({"content": "so: "}),
            chunk({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]}),
            chunk({"tool_calls": function}),
            chunk({"tool_calls": [{"index": 1, "function": {"arguments": '{ "x"'}}]}),
            chunk({"tool_calls": [{"index": 1, "function": {"arguments": ": 1 }"}}]}),
            chunk({}, "tool_calls"),
            {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 20}},
        )
    )
    async with asking(server) as session:
        async with session.stream("p", tools=[TOOL]) as stream:
            found = [event async for event in stream.events()]
        answer = stream.answer
        again = await session.complete("p", tools=[TOOL])
    assert found[:3] == [ReasoningChunk("I "), ReasoningChunk("think"), TextChunk("so: ")]
    calls = [event for event in found if isinstance(event, ToolCall)]
    assert [call.arguments_json for call in calls] == ["{}", '{"x":1}']
    assert (answer.finish_reason, answer.prompt_tokens) == ("tool_calls", 7)
    assert (answer.completion_tokens, answer.reasoning_tokens) == (20, 2)
    # As it is stored.
    assert (again.cached, again.tool_calls, again.reasoning) == (True, tuple(calls), "I think")


async def test_log_probabilities_of_chats_and_of_texts() -> None:
    def answer(body: dict[str, Any]) -> Response:
        if "prompt" not in body:
            tops = [
                {"token": "\ufffd", "bytes": [240], "logprob": -1, "id": 5},
                {"token": "b", "logprob": -0.5, "id": 4},
                {"token": "c", "logprob": -float("inf"), "id": 3},
            ]
            record = {"token": "\ufffd", "bytes": [240], "logprob": -1, "id": 5}
            found = {"content": [{**record, "top_logprobs": tops}]}
            return events(chunk({"content": "x"}, logprobs=found), chunk({}, "stop"))
        old = {
            "tokens": ["a", "b"],
            "token_logprobs": [-0.25, -1],
            "top_logprobs": [{"a": -0.25}, {"b": -1, "c": -0.5}],
        }
        return events({"choices": [{"text": "ab", "finish_reason": "stop", "logprobs": old}]})

    async with asking(Scripted(answer)) as session:
        (token,) = (await session.complete("p", logprobs=3)).logprobs or ()
        assert (token.token_id, token.token, token.logprob) == (5, b"\xf0", -1.0)
        assert token.top == ((4, b"b", -0.5), (5, b"\xf0", -1.0), (3, b"c", -9999.0))
        tokens = (await session.complete("p", raw=True, logprobs=1)).logprobs or ()
        assert [each.token for each in tokens] == [b"a", b"b"]
        assert tokens[1].top == ((0, b"c", -0.5),)
        assert (await session.complete("p", raw=True, logprobs=1)).logprobs == tokens


async def test_a_replay_has_the_log_probabilities_of_the_same_chunks() -> None:
    def token(text: str) -> dict[str, Any]:
        return {"content": [{"token": text, "logprob": -1, "id": 1, "top_logprobs": []}]}

    server = Scripted(
        lambda body: events(
            chunk({"reasoning_content": "hm"}, logprobs=token("hm")),
            chunk({"content": "a "}, logprobs=token("a ")),
            chunk({"content": "b"}, "stop", logprobs=token("b")),
        )
    )
    async with asking(server) as session:
        found = []
        for _ in range(2):
            async with session.stream("p", logprobs=0) as stream:
                found.append([event async for event in stream.events()])
    computed, replayed = found
    assert computed == replayed
    texts = [event for event in computed if isinstance(event, TextChunk)]
    assert [event.logprobs[0].token for event in texts] == [b"a ", b"b"]


@pytest.mark.parametrize("coded", [False, True])
async def test_a_vector_has_the_norm_1_and_the_dimensions_that_are_asked_for(coded: bool) -> None:
    def answer(body: dict[str, Any]) -> Response:
        numbers: Any = [3.0, 4.0, 12.0]
        if coded:
            numbers = base64.b64encode(np.array(numbers, "<f4").tobytes()).decode()
        return JSONResponse(
            {"model": "m", "data": [{"embedding": numbers}], "usage": {"prompt_tokens": 2}}
        )

    async with asking(Scripted(answer)) as session:
        whole = await session.embedding("text")
        assert whole.vector.tolist() == np.array([3 / 13, 4 / 13, 12 / 13], np.float32).tolist()
        assert whole.tokens == 2
        short = await session.embedding("text", dimensions=2)
        assert short.vector.tolist() == np.array([0.6, 0.8], np.float32).tolist()
        assert not short.vector.flags.writeable
        with pytest.raises(asteady.InvalidRequestError, match="the model's vectors have 3"):
            await session.embedding("text", dimensions=4)
        for options in ({"truncate": True}, {"mode": "query"}):
            with pytest.raises(asteady.ModelCapabilityError, match="the model's server cannot"):
                await session.embedding("text", **options)


@pytest.mark.parametrize("vector", [None, [], [0.0, 0.0], [[1.0]], "%%", ["x"]], ids=str)
async def test_what_is_no_vector_is_refused(vector: Any) -> None:
    server = Scripted(lambda body: JSONResponse({"data": [{"embedding": vector}]}))
    async with asking(server) as session:
        with pytest.raises(asteady.EngineError, match="sent no valid answer"):
            await session.embed("text")
        with pytest.raises(asteady.CacheMissError):
            await session.embed("text", cache="only")


async def test_an_error_in_place_of_a_vector_is_told() -> None:
    server = Scripted(lambda body: JSONResponse({"error": {"message": "out of memory"}}))
    async with asking(server) as session:
        with pytest.raises(asteady.EngineError, match="failed: out of memory"):
            await session.embed("text")


SCHEMA = {"type": "object", "properties": {}}
LLAMA = {"top_k": 0, "min_p": 0.0, "typical_p": 1.0, "top_p": 1.0, "repeat_penalty": 1.0}
VLLM = {"top_k": 0, "min_p": 0.0, "top_p": 1.0, "repetition_penalty": 1.0}


@pytest.mark.parametrize(
    ("owned_by", "arguments", "text", "sent"),
    [
        ("somebody", {}, "x", {"max_tokens": 512, "temperature": 0.0, "seed": 42}),
        ("openai", {"stop": "y"}, "x", {"max_completion_tokens": 512, "stop": ["y"]}),
        ("llamacpp", {}, "x", LLAMA),
        ("llamacpp", {"repeat_penalty": 2}, "x", {"repeat_last_n": 512, "repeat_penalty": 2.0}),
        ("llamacpp", {"choices": ["b", 'a"\n']}, "b", {"grammar": r'root ::= "a\"\n" | "b"'}),
        ("vllm", {}, "x", VLLM),
        ("vllm", {"regex": "a"}, "a", {"structured_outputs": {"regex": "a"}}),
        ("vllm", {"choices": ["b", "a"]}, "b", {"structured_outputs": {"choice": ["a", "b"]}}),
        ("somebody", {"logit_bias": {3: 5}}, "x", {"logit_bias": {"3": 5.0}}),
        ("vllm", {"chat_template_kwargs": {"a": 1}}, "x", {"chat_template_kwargs": {"a": 1}}),
        ("somebody", {"tools": [TOOL], "tool_choice": "none"}, "x", {}),
    ],
    ids=str,
)  # fmt: skip
async def test_each_kind_of_server_is_asked_in_its_own_words(
    owned_by: str, arguments: dict[str, Any], text: str, sent: dict[str, Any]
) -> None:
    server = Scripted(answering(text), owned_by=owned_by)
    async with asking(server) as session:
        assert (await session.complete("p", **arguments)).text == text
    (asked,) = server.asked
    assert asked.items() >= sent.items()
    assert asked["messages"] == [{"role": "user", "content": "p"}]
    assert "tools" not in asked


@pytest.mark.parametrize(
    ("owned_by", "arguments", "what"),
    [
        ("llamacpp", {"regex": "a"}, "hold an answer to regex"),
        ("somebody", {"choices": ["a"]}, "hold an answer to choices"),
        ("vllm", {"grammar": 'start: "a"'}, "hold an answer to grammar"),
        ("vllm", {"typical_p": 0.5}, "sample by typical_p"),
        ("openai", {"messages": [{"role": "assistant", "content": "a"}]}, "continue"),
    ],
    ids=str,
)
async def test_what_a_server_would_ignore_is_refused(
    owned_by: str, arguments: dict[str, Any], what: str
) -> None:
    server = Scripted(owned_by=owned_by)
    arguments = {"prompt": "p", **arguments} if "messages" not in arguments else arguments
    async with asking(server) as session:
        with pytest.raises(asteady.ModelCapabilityError, match=f"server cannot {what}"):
            await session.complete(**arguments)
    assert not server.asked


async def test_an_answer_must_have_the_form_that_was_asked_for() -> None:
    forms: list[tuple[dict[str, Any], str]] = [
        ({"schema": SCHEMA}, "Sure: {}"),
        ({"tools": [TOOL], "tool_choice": "required"}, "No."),
    ]
    for arguments, text in forms:
        async with asking(Scripted(answering(text))) as session:
            with pytest.raises(asteady.EngineError, match=r"asked for|asks for"):
                await session.complete("p", **arguments)
        async with asking(Scripted(answering(text, "length"))) as session:
            with pytest.raises(asteady.IncompleteAnswerError) as caught:
                await session.complete("p", **arguments)
            assert caught.value.text == text


async def test_a_message_that_llama_server_continues_is_not_repeated() -> None:
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "Hi my"}]
    for sent in (["Hi ", "my na", "me"], [" na", "me"], ["Hi my", " name"]):
        server = Scripted(
            lambda body, sent=sent: events(  # type: ignore[misc]  # binds the loop's value
                *(chunk({"content": text}) for text in sent), chunk({}, "stop")
            ),
            owned_by="llamacpp",
        )
        async with asking(server) as session:
            answer = await session.complete(messages=messages, cache="bypass")
            assert answer.text == " name"


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, {"code": "context_length_exceeded", "message": "long"}, asteady.PromptTooLongError),
        (400, {"type": "exceed_context_size_error", "message": "l"}, asteady.PromptTooLongError),
        (400, {"message": "maximum context length is 8"}, asteady.PromptTooLongError),
        (400, {"message": "top_k: no"}, asteady.InvalidRequestError),
        (422, {"detail": "what?"}, asteady.InvalidRequestError),
        (404, {"message": "no such model"}, asteady.ModelNotFoundError),
        (429, {"code": "insufficient_quota", "message": "pay"}, asteady.RemoteError),
        (403, {"message": "no"}, asteady.ModelError),
    ],
    ids=str,
)
async def test_refusals_are_errors_of_asteadys(
    status: int, error: dict[str, Any], kind: type[Exception]
) -> None:
    server = Scripted(lambda body: JSONResponse({"error": error}, status))
    async with asking(server) as session:
        with pytest.raises(kind) as caught:
            await session.generate("p")
        assert type(caught.value) is kind
    assert len(server.asked) == 1


async def test_the_bodies_are_json_with_any_text() -> None:
    server = Scripted()
    async with asking(server) as session:
        await session.generate("\u2028 é \x00 😀")
    assert json.dumps(server.asked[0]["messages"][0]["content"]) == json.dumps("\u2028 é \x00 😀")
