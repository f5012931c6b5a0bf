"""Recorded answers: the file, what matches, and what is said of what is missing."""

from __future__ import annotations

import asyncio
import itertools
import logging
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np
import pytest
from hypothesis import given, strategies as st

import asteady
from asteady import ModelNotFoundError, ToolCall, blocking
from asteady._base.requests import (
    Completion,
    Embedding,
    EmbedRequest,
    GenerateRequest,
    Kind,
    TokenLogprob,
)
from asteady._base.settings import Settings
from asteady._engine.loader import LlamaSource
from asteady._engine.sources import ModelSource
from asteady._session.models import engine_source
from asteady.testing import FakeEngine, MissingAnswerError, Recording, RecordingError
from asteady.testing._format import ModelRequest, Recorded, RecordedError, dumps, loads, nearest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.toml"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    """Stands in for the real models: what a recording records."""
    engine = FakeEngine(context=20)
    monkeypatch.setattr(LlamaSource, "load", lambda self, kind, reference: engine)
    yield engine
    assert isinstance(engine_source(Settings(), None), ModelSource)


def completion(text: str, *chunks: str, **more: Any) -> Completion:
    return Completion(
        text=text,
        chunks=chunks or (text,),
        finish_reason="stop",
        prompt_tokens=1,
        completion_tokens=2,
        seed=42,
        model="builtin",
        fingerprint="f",
        cost_s=1.0,
        **more,
    )


def embedding(*values: float) -> Embedding:
    vector = np.array(values, dtype=np.float32)
    return Embedding(vector=vector, tokens=3, model="builtin", fingerprint="f", cost_s=1.0)


def asked(prompt: str, model: str = "builtin", **options: Any) -> ModelRequest:
    return ModelRequest("generation", model, GenerateRequest.of(prompt, **options))


# -- the file ------------------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8"), max_size=60) | st.text(
    ' "\n\r\t\\a\x7f\x00', max_size=12
)


@given(text=texts, prompt=texts.filter(bool), data=st.data())
def test_every_text_comes_back_with_its_chunks(text: str, prompt: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))))
    bounds = [0, *cuts, len(text)]
    chunks = tuple(text[a:b] for a, b in itertools.pairwise(bounds) if a < b)
    request = GenerateRequest.of(prompt, stop=[prompt])
    recorded: Recorded = {ModelRequest("generation", prompt, request): completion(text, *chunks)}
    (again,) = loads(dumps(recorded), "here").items()
    assert again[0] == ModelRequest("generation", prompt, request)
    assert isinstance(again[1], Completion)
    assert again[1].text == text
    assert "".join(again[1].chunks) == text
    if chunks:
        assert again[1].chunks == chunks


@given(
    messages=st.lists(st.tuples(texts.filter(bool), texts), min_size=1, max_size=3),
    numbers=st.fixed_dictionaries(
        {},
        optional={
            "seed": st.integers(0, 2**32 - 2),
            "temperature": st.floats(0, 100),
            "top_p": st.floats(0, 1),
            "presence_penalty": st.floats(-10, 10),
            "logprobs": st.integers(0, 100),
            "logit_bias": st.dictionaries(st.integers(0, 2**31 - 1), st.floats(-100, 100)),
        },
    ),
)
def test_every_request_comes_back(messages: list[tuple[str, str]], numbers: dict[str, Any]) -> None:
    request = GenerateRequest.of(
        messages=[{"role": role, "content": content} for role, content in messages], **numbers
    )
    recorded: Recorded = {ModelRequest("generation", "m", request): completion("x")}
    assert set(loads(dumps(recorded), "here")) == set(recorded)


def test_conversations_with_tools_come_back() -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": {"b": 1.0, "a": [None, "\n"]}}}
    request = GenerateRequest.of(
        messages=[
            {"role": "user", "content": "hi", "name": "Ada"},
            {"role": "assistant", "content": None, "tool_calls": [call], "reasoning": "hm"},
            {"role": "tool", "content": "12:00", "tool_call_id": "1"},
        ],
        chat_template_kwargs={"enable_thinking": False, "x": "a"},
        date="2026-11-25",
        tools=[{"type": "function", "function": {"name": "f", "description": 'a "b"\n'}}],
        tool_choice="f",
    )
    request = attrs.evolve(request, isolation="team")
    recorded: Recorded = {ModelRequest("generation", "m", request): completion("x")}
    assert set(loads(dumps(recorded), "here")) == set(recorded)


def test_all_else_comes_back_too() -> None:
    tokens = (
        TokenLogprob(token_id=5, token=b"\xff\x00", logprob=-0.1, top=((5, b"a", -0.1),)),
        TokenLogprob(token_id=6, token=b"b", logprob=float("-inf")),
    )
    recorded: Recorded = {
        asked("a", raw=True, logprobs=1): completion("b", logprobs=tokens),
        asked("too long"): RecordedError("PromptTooLongError", 'it is "long"'),
        ModelRequest("embedding", "m", EmbedRequest.of("", truncate=True)): embedding(0.6, 0.8),
        ModelRequest("embedding", "m", EmbedRequest.of("a", mode="query", dimensions=2)): embedding(
            1, 0
        ),
    }
    again = loads(dumps(recorded), "here")
    assert set(again) == set(recorded)
    answer = again[asked("a", raw=True, logprobs=1)]
    assert isinstance(answer, Completion)
    assert answer.logprobs == tokens
    assert again[asked("too long")] == RecordedError("PromptTooLongError", 'it is "long"')
    vector = again[ModelRequest("embedding", "m", EmbedRequest.of("", truncate=True))]
    assert isinstance(vector, Embedding)
    assert vector.vector.tolist() == pytest.approx([0.6, 0.8])
    assert not vector.vector.flags.writeable
    assert vector.tokens == 3


def test_the_file_is_the_same_in_whatever_order_answers_came() -> None:
    items = [(asked(name), completion(name)) for name in "bca"]
    written = dumps(dict(items))
    assert written == dumps(dict(reversed(items)))
    assert [table["prompt"] for table in tomllib.loads(written)["generation"]] == ["a", "b", "c"]


def test_text_stands_line_by_line_and_defaults_are_left_out() -> None:
    written = dumps({asked("two lines", seed=7): completion('one "line"\nand \nanother', "one")})
    assert (
        written
        == '''\
# Answers of language models, for tests; written by `pytest --asteady-record`.
version = 1

[[generation]]
model = "builtin"
prompt = "two lines"
seed = 7
[generation.answer]
text = """
one "line"
and\\u0020
another"""
chunks = [3]
finish_reason = "stop"
prompt_tokens = 1
completion_tokens = 2
'''
    )


def test_reasoning_is_recorded_and_replayed(path: Path, fake: FakeEngine) -> None:
    thinking = completion(
        "Hello", reasoning="I see", reasoning_chunks=("I ", "see"), reasoning_tokens=2
    )
    written = dumps({asked("x"): thinking})
    assert "reasoning_chunks = [2, 3]" in written
    path.write_text(written)
    with Recording(path), blocking.Session() as session, session.stream("x") as stream:
        events = [event.text for event in stream.events() if not isinstance(event, ToolCall)]
        answer = stream.answer
    assert events == ["I ", "see", "Hello"]
    assert (answer.reasoning, answer.text, answer.reasoning_tokens) == ("I see", "Hello", 2)


def test_tokens_are_those_of_the_model_before_and_after_an_answer(path: Path) -> None:
    counts: list[int] = []
    modes: tuple[Literal["record", "replay"], ...] = ("record", "replay")
    for mode in modes:
        with Recording(path, mode), blocking.Session() as session:
            counts.append(session.count_tokens("Write a haiku"))
            counts.append(session.complete("Write a haiku", max_new_tokens=1).prompt_tokens)
            counts.append(session.count_tokens("Write a haiku"))
    assert counts == [counts[0]] * 6


def test_replaying_downloads_no_model_to_count_its_tokens(path: Path) -> None:
    with (
        Recording(path),
        blocking.Session(generation_model="hf:owner/repo:Q8_0") as session,
        pytest.raises(ModelNotFoundError, match="asteady models pull hf:owner/repo:Q8_0"),
    ):
        session.count_tokens("Write a haiku")


def test_long_lists_of_chunks_are_wrapped() -> None:
    text = "ab" * 100
    written = dumps({asked("x"): completion(text, *(["ab"] * 100))})
    assert max(map(len, written.splitlines())) <= 210
    (answer,) = loads(written, "here").values()
    assert isinstance(answer, Completion)
    assert answer.chunks == ("ab",) * 100


@pytest.mark.parametrize(
    "text",
    [
        "not toml at all",
        "",
        "version = 2\n",
        "version = 1\n[[generation]]\nmodel = 'm'\n",
        "version = 1\n[[generation]]\nmodel = 'm'\nprompt = 'x'\n",
        "version = 1\n[[generation]]\nmodel = 'm'\nprompt = 'x'\nsede = 1\n",
        "version = 1\n[[generation]]\nmodel = 'm'\nprompt = 'x'\nrefused = {error='E', message=''}",
        "version = 1\n[[generation]]\nmodel = 'm'\nprompt = 'x'\n[generation.answer]\ntext = 'ab'\n"
        "chunks = [1]\nfinish_reason = 'stop'\nprompt_tokens = 1\ncompletion_tokens = 1",
    ],
)
def test_a_file_that_is_something_else_is_refused_with_what_to_do(text: str, path: Path) -> None:
    path.write_text(text)
    with pytest.raises(RecordingError, match=r"answers\.toml .* --asteady-record"):
        Recording(path)


# -- recording and replaying ---------------------------------------------------------------------


async def conversation() -> list[object]:
    async with asteady.Session() as session:
        said: list[object] = [await session.generate("hi"), await session.generate("hi", seed=7)]
        async with session.stream("hi there") as stream:
            said.append([chunk async for chunk in stream])
        said.append((await session.complete(messages=[{"role": "user", "content": "hi"}])).text)
        said.append((await session.embed(["a", "b"])).tolist())
        said.append(await session.is_cached("hi"))
    return said


@pytest.mark.usefixtures("fake")
def test_what_was_recorded_is_replayed_without_a_model(
    path: Path, fake: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Recording(path, "record") as recording:
        said = asyncio.run(conversation())
    assert len(fake.computed) == 6
    assert len(recording.recorded) == 6
    monkeypatch.setattr(LlamaSource, "load", None)
    with Recording(path) as recording:
        assert asyncio.run(conversation()) == said
    assert recording.missing == []
    assert "6 answers" in repr(recording)


@pytest.mark.usefixtures("fake")
def test_the_module_s_functions_are_recorded_with_and_without_await(
    path: Path, fake: FakeEngine
) -> None:
    blocking.generate("other")  # opens a default session, which must not work across the block
    with Recording(path, "record"):
        assert blocking.generate("blocked") == "You said: blocked"
        assert asyncio.run(asteady.generate("awaited")) == "You said: awaited"
    computed = len(fake.computed)
    for _ in range(2):
        with Recording(path):
            assert blocking.generate("blocked") == "You said: blocked"
            assert asyncio.run(asteady.generate("awaited")) == "You said: awaited"
            with pytest.raises(MissingAnswerError):
                blocking.generate("other")
    assert len(fake.computed) == computed
    blocking.close()


def test_live_the_models_answer_and_the_file_is_left_alone(path: Path, fake: FakeEngine) -> None:
    path.write_text(dumps({asked("hi"): completion("recorded")}))
    before = path.read_text()
    with Recording(path, "live"), blocking.Session() as session:
        assert session.generate("hi") == "You said: hi"
        assert session.generate("new") == "You said: new"
    assert path.read_text() == before


@pytest.mark.usefixtures("fake")
def test_a_refusal_is_replayed_too(path: Path) -> None:
    long = "word " * 21
    for mode in ("record", "replay"):
        with Recording(path, mode), blocking.Session() as session:
            with pytest.raises(asteady.PromptTooLongError, match="21 words"):
                session.generate(long)
            assert session.generate("short") == "You said: short"


@pytest.mark.usefixtures("fake")
def test_recording_again_changes_what_changed_and_keeps_the_rest(
    path: Path, fake: FakeEngine
) -> None:
    with Recording(path, "record"), blocking.Session() as session:
        session.generate("a")
        session.generate("b")
    before = path.read_text().splitlines()
    fake._answer = lambda request: "Changed"
    with Recording(path, "record"), blocking.Session() as session:
        assert session.generate("a") == "Changed"
    after = path.read_text().splitlines()
    assert len(set(after) - set(before)) == 3  # text, chunks, the number of them
    with Recording(path), blocking.Session() as session:
        assert session.generate("b") == "You said: b"


@pytest.mark.usefixtures("fake")
def test_two_recordings_into_one_file_lose_nothing(path: Path) -> None:
    first, second = Recording(path, "record"), Recording(path, "record")
    with first, blocking.Session() as session:
        session.generate("first")
    with second, blocking.Session() as session:
        session.generate("second")
    assert len(Recording(path).recorded) == 2
    assert [file.name for file in path.parent.glob("*.tmp")] == []


@pytest.mark.usefixtures("fake")
def test_models_are_told_apart_by_name_and_of_a_path_by_the_file_s(
    path: Path, tmp_path: Path
) -> None:
    with Recording(path, "record"), blocking.Session() as session:
        session.generate("hi", model="/one/checkout/m.gguf")
        session.generate("hi", model="models/other.gguf")
    models = sorted(asked.model for asked in Recording(path).recorded)
    assert models == ["m.gguf", "other.gguf"]
    with Recording(path), blocking.Session() as session:
        session.generate("hi", model=str(tmp_path / "m.gguf"))
        with pytest.raises(MissingAnswerError):
            session.generate("hi")


@pytest.mark.usefixtures("fake")
def test_a_cancelled_recording_notes_nothing(path: Path, fake: FakeEngine) -> None:
    async def left() -> None:
        async with asteady.Session() as session:
            fake.hold()
            async with session.stream("a b c") as stream:
                fake.step()
                await anext(stream)
            await fake.wait_released(1)

    with Recording(path, "record"):
        asyncio.run(left())
    fake.resume()
    assert not path.exists()


def test_cached_answers_of_before_are_not_taken_for_recorded_ones(path: Path) -> None:
    with blocking.Session() as session:
        session.generate("hi", max_new_tokens=2)
    with (
        Recording(path),
        blocking.Session() as session,
        pytest.raises(MissingAnswerError),
    ):
        session.generate("hi", max_new_tokens=2)


def test_a_session_with_its_own_engine_takes_no_part(path: Path, engine: FakeEngine) -> None:
    with Recording(path), blocking.Session(engine=engine) as session:
        assert session.generate("hi") == "You said: hi"


def test_there_are_three_modes(path: Path) -> None:
    with pytest.raises(asteady.InvalidRequestError, match="replay"):
        Recording(path, "play")  # type: ignore[arg-type]  # the point of the test


def test_jobs_that_are_left_cost_nothing(path: Path) -> None:
    from asteady.testing._recording import ReplayEngine

    path.write_text(dumps({asked("hi"): completion("hello")}))
    engine = ReplayEngine(Recording(path), "0" * 64, "generation", "builtin")
    worker = engine.open_worker()
    slot = worker.admit(engine.prepare(GenerateRequest.of("hi")))
    worker.interrupt(slot)
    worker.release(slot)
    worker.release(slot)
    assert worker.step() == []
    worker.close()


# -- what is missing -----------------------------------------------------------------------------


def test_a_missing_answer_shows_the_request_and_the_nearest_one(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(
        dumps(
            {
                asked("Write a haiku about rain", seed=7): completion("x"),
                asked("Something else entirely"): completion("y"),
            }
        )
    )
    with (
        caplog.at_level(logging.ERROR),
        Recording(path) as recording,
        blocking.Session() as session,
        pytest.raises(MissingAnswerError) as caught,
    ):
        session.generate("Write a haiku about snow", seed=7)
    message = str(caught.value)
    assert '    prompt = "Write a haiku about snow"\n    seed = 7\n' in message
    assert '    - prompt = "Write a haiku about rain"\n' in message
    assert '    + prompt = "Write a haiku about snow"\n' in message
    assert "Something else" not in message
    assert "--asteady-record" in message
    assert [str(error) for error in recording.missing] == [message]


def test_where_nothing_is_recorded_it_says_so(path: Path) -> None:
    with (
        Recording(path),
        blocking.Session() as session,
        pytest.raises(MissingAnswerError, match="The file has no embedding requests"),
    ):
        session.embed("hi")


def test_the_nearest_is_of_the_same_kind_and_if_it_can_be_of_the_same_model() -> None:
    one, other = asked("abcdef"), asked("abcdxx", model="other")
    vector = ModelRequest("embedding", "builtin", EmbedRequest.of("abcdxx"))
    assert nearest(asked("abcdxx"), [one, other, vector]) == one
    assert nearest(asked("abcdxx", model="third"), [one, other, vector]) == other
    assert nearest(asked("zzz"), [vector]) is None
    kind: Kind = "embedding"
    assert nearest(ModelRequest(kind, "builtin", EmbedRequest.of("b")), [one, vector]) == vector
