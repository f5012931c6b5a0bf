"""Answers that call tools, in the format of each family of models."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import attrs
import pytest

import asteady
from asteady import Completion, IncompleteAnswerError, Session, ToolCall
from asteady._engine.output.call_formats import format_of
from asteady._engine.output.calls import CallSplitter
from tests.gguf_files import CHAT_TEMPLATE, write_bigram, write_llama

pytestmark = pytest.mark.anyio

HERMES = '{# <tool_call>\\n{"name": <function-name>, "arguments": <args-json-object>} #}'
LLAMA = '{# {"name": function name, "parameters": dictionary of argument name and its value} #}'
MISTRAL = "{# [TOOL_CALLS] #}"
MISTRAL_ARGS = "{# [TOOL_CALLS] [ARGS] #}"
TAGS = ("[TOOL_CALLS]", "[ARGS]")


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def now() -> str:
    """The time."""
    return "12:00"


CALL = '{"name": "add", "%s": {"a": '
REST = ["1", ', "b": ', "2"]
ADDED = ("add", {"a": 1, "b": 2})

HERMES_CALL = ["<tool_call>", "\n" + CALL % "arguments", *REST, "}}\n", "</tool_call>"]
LLAMA_CALL = [CALL % "parameters", *REST, "}}"]
MISTRAL_CALL = ["[TOOL_CALLS]", "[" + CALL % "arguments", *REST, "}}]"]
ARGS_CALL = ["[TOOL_CALLS]", "add", "[ARGS]", '{"a": ', *REST, "}"]

FORMATS = [
    pytest.param(HERMES, HERMES_CALL, id="hermes"),
    pytest.param(LLAMA, LLAMA_CALL, id="llama"),
    pytest.param(MISTRAL, MISTRAL_CALL, id="mistral"),
    pytest.param(MISTRAL_ARGS, ARGS_CALL, id="mistral-args"),
    pytest.param("", HERMES_CALL, id="neutral"),
]


async def answers(
    folder: Path, knows: str, chain: list[str], *, control: Any = TAGS, **options: Any
) -> tuple[Completion, list[asteady.StreamEvent]]:
    """The answer, and the events of its stream, of a model that writes this chain."""
    template = knows + CHAT_TEMPLATE
    # llguidance allows what is forced only as the tokenizer writes it, which finds these.
    own = [piece for piece in chain if len(piece) > 1 and piece not in control]
    write_bigram(
        folder / "m.gguf", ["\n", *chain], control=control, user_defined=own, template=template
    )
    options = {"tools": [add, now], **options}
    where: Any = {"generation_model": str(folder / "m.gguf"), "cache_dir": folder}
    async with Session(**where) as session, session.stream("hi", **options) as stream:
        events = [event async for event in stream.events()]
    options["cache"] = "only"
    async with Session(**where) as session, session.stream("hi", **options) as again:
        assert [event async for event in again.events()] == events
    assert attrs.evolve(again.answer, cached=False) == stream.answer
    return stream.answer, events


def called(answer: Completion) -> list[tuple[str, dict[str, Any]]]:
    return [(call.name, call.arguments) for call in answer.tool_calls]


@pytest.mark.parametrize("choice", ["auto", "required", "add"])
@pytest.mark.parametrize(("knows", "chain"), FORMATS)
async def test_a_call_is_told_from_text(
    tmp_path: Path, knows: str, chain: list[str], choice: str
) -> None:
    answer, events = await answers(tmp_path, knows, chain, tool_choice=choice)
    assert called(answer) == [ADDED]
    assert (answer.text, answer.finish_reason) == ("", "tool_calls")
    assert events == list(answer.tool_calls)


@pytest.mark.parametrize(("knows", "chain"), [FORMATS[0], FORMATS[2], FORMATS[3], FORMATS[4]])
@pytest.mark.parametrize("control", [TAGS, (*TAGS, "<tool_call>", "</tool_call>")])
async def test_text_may_come_before_a_call(
    tmp_path: Path, knows: str, chain: list[str], control: Any
) -> None:
    answer, events = await answers(
        tmp_path, knows, ["Let ", "me see.\n\n", *chain], control=control
    )
    assert answer.text == "Let me see."
    assert called(answer) == [ADDED]
    assert isinstance(events[-1], ToolCall)


@pytest.mark.parametrize(("knows", "chain"), FORMATS)
async def test_an_answer_without_a_call_is_text(
    tmp_path: Path, knows: str, chain: list[str]
) -> None:
    answer, _ = await answers(tmp_path, knows, ["It ", "is <tool", " 12.", " \n"])
    assert (answer.text, answer.tool_calls) == ("It is <tool 12. \n", ())
    assert answer.finish_reason == "stop"


@pytest.mark.parametrize(("knows", "chain"), FORMATS)
async def test_required_makes_a_valid_call_of_any_model(
    tmp_path: Path, knows: str, chain: list[str]
) -> None:
    answer, _ = await answers(
        tmp_path, knows, ["It ", "is"], tool_choice="required", temperature=5.0, tools=[now]
    )
    assert called(answer)[0] == ("now", {})


async def test_what_begins_as_a_call_and_is_none_is_text(tmp_path: Path) -> None:
    answer, _ = await answers(tmp_path, HERMES, ["So ", "<tool_call> no", " call"])
    assert (answer.text, answer.tool_calls) == ("So <tool_call> no call", ())


async def test_from_its_tag_on_a_call_is_valid(tmp_path: Path) -> None:
    answer, _ = await answers(
        tmp_path, HERMES, ["<tool_call>", '{"name": "', "sub", '", '], tools=[now]
    )
    assert called(answer)[0] == ("now", {})


async def test_several_calls(tmp_path: Path) -> None:
    second = [
        '}}\n</tool_call>\n<tool_call>\n{"name": "now", "arguments": {}}\n',
        "</tool_call>",
    ]
    answer, events = await answers(tmp_path, HERMES, [*HERMES_CALL[:-2], *second])
    assert called(answer) == [ADDED, ("now", {})]
    ids = [call.id for call in answer.tool_calls]
    assert len({*ids}) == 2
    assert all(id is not None and len(id) == 9 and id.isalnum() for id in ids)
    assert events == list(answer.tool_calls)


async def test_a_call_that_is_cut_is_an_error(tmp_path: Path) -> None:
    for choice in ("auto", "required"):
        with pytest.raises(IncompleteAnswerError, match="cut after 4 tokens"):
            await answers(tmp_path, HERMES, HERMES_CALL, max_new_tokens=4, tool_choice=choice)


async def test_without_tools_a_call_is_text(tmp_path: Path) -> None:
    answer, _ = await answers(tmp_path, HERMES, HERMES_CALL, tool_choice="none")
    assert answer.tool_calls == ()
    assert answer.text == "".join(HERMES_CALL)


async def test_a_thinking_model_thinks_before_its_call(tmp_path: Path) -> None:
    thinks = HERMES + "{# <think> </think> #}"
    # What is reasoning has no calls.
    chain = ["<think>", "I may <tool_call>{} ", "</think>", "Well. ", *HERMES_CALL]
    answer, events = await answers(tmp_path, thinks, chain)
    assert (answer.reasoning, answer.text) == ("I may <tool_call>{}", "Well.")
    assert called(answer) == [ADDED]
    assert [type(event) for event in events] == [
        asteady.ReasoningChunk,
        asteady.TextChunk,
        ToolCall,
    ]
    del chain[3]
    answer, _ = await answers(tmp_path, thinks, chain, tool_choice="required")
    assert (answer.reasoning, answer.text) == ("I may <tool_call>{}", "")
    assert called(answer) == [ADDED]


async def test_calls_beside_other_answers_have_the_bits_of_those_alone(tmp_path: Path) -> None:
    write_llama(tmp_path / "m.gguf", context=2048)
    prompts: list[Any] = [
        {"prompt": "a", "tools": [add, now], "tool_choice": "required"},
        {"prompt": "b"},
        {"prompt": "c", "tools": [add, now]},
        {"prompt": "d", "tools": [now, add], "tool_choice": "add", "temperature": 1.0},
        {"prompt": "e", "regex": "[a-z]{9}"},
    ]
    model: Any = {"generation_model": str(tmp_path / "m.gguf"), "disable_cache": True}

    async def one(session: Session, options: Any) -> Any:
        try:
            answer = await session.complete(**options, max_new_tokens=120, logprobs=2)
        except IncompleteAnswerError as exc:
            return str(exc), exc.text
        return answer.text, answer.tool_calls, answer.logprobs

    async with Session(**model, batch_width=1) as session:
        alone = [await one(session, options) for options in prompts]
    async with Session(**model, batch_width=5, workers=1) as session:
        together = await asyncio.gather(*(one(session, options) for options in prompts))
    assert together == alone


async def test_a_stop_string_ends_the_text_but_no_call(tmp_path: Path) -> None:
    answer, _ = await answers(tmp_path, HERMES, HERMES_CALL, stop=["add"])
    assert called(answer) == [ADDED]
    answer, _ = await answers(tmp_path, HERMES, ["I ", "add.", *HERMES_CALL], stop=["add"])
    assert (answer.text, answer.tool_calls) == ("I ", ())


async def test_parameters_that_no_grammar_can_be_made_of_are_named(tmp_path: Path) -> None:
    bad = {"name": "bad", "parameters": {"properties": {"x": {"type": "string", "pattern": "["}}}}
    with pytest.raises(asteady.InvalidRequestError, match=r"tools\[1\].*of bad: schema"):
        await answers(tmp_path, HERMES, HERMES_CALL, tools=[now, bad])


@pytest.mark.parametrize(
    ("source", "start"),
    [
        (HERMES, "<tool_call>"),
        (HERMES.replace('"', '\\"'), "<tool_call>"),
        (MISTRAL, "[TOOL_CALLS]"),
        (MISTRAL_ARGS, "[TOOL_CALLS]"),
        (LLAMA, '{"name": "'),
    ],
)
def test_templates_tell_the_format(source: str, start: str) -> None:
    found = format_of(source)
    assert found is not None
    assert found.starts[0] == start
    assert format_of("<tool_call>\\n<function=x>{% for tool in tools %}") is None


def test_characters_may_come_in_any_parts() -> None:
    found = format_of(HERMES)
    assert found is not None
    whole = "a <tool_cal\n\n" + "".join(HERMES_CALL)
    splitter = CallSplitter(found)
    text = "".join(splitter.add(char) for char in whole)
    assert text + splitter.end() == "a <tool_cal"
    ((name, arguments),) = splitter.take()
    assert (name, json.loads(arguments)) == ADDED
    splitter = CallSplitter(found)
    assert splitter.add("a \n<tool") == "a"
    assert splitter.add("s>") == " \n<tools>"


FOLDER = Path(__file__).parents[4] / "shared" / "templates"
TEMPLATES = Path(os.environ.get("ASTEADY_TEST_TEMPLATES", FOLDER))


@pytest.mark.skipif(not TEMPLATES.is_dir(), reason="the published templates are not here")
def test_the_formats_of_published_templates() -> None:
    expected = {
        "Qwen-Qwen2.5-7B-Instruct": "<tool_call>",
        "Qwen-Qwen3-0.6B": "<tool_call>",
        "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": "<tool_call>",
        "Bielik-11B-v3.0-Instruct": "<tool_call>",
        "ibm-granite-granite-4.0": "<tool_call>",
        "meta-llama-Llama-3.1-8B-Instruct": '{"name": "',
        "meta-llama-Llama-3.2-3B-Instruct": '{"name": "',
        "meta-llama-Llama-3.3-70B-Instruct": '{"name": "',
        "mistralai-Mistral-Nemo-Instruct-2407": "[TOOL_CALLS]",
        "unsloth-mistral-Devstral-Small-2507": "[TOOL_CALLS]",
        "Qwen3-Coder": None,
        "GLM-4.6": None,
        "openai-gpt-oss-120b": None,
    }
    for name, start in expected.items():
        found = format_of((TEMPLATES / f"{name}.jinja").read_text())
        assert (found and found.starts[0]) == start, name
