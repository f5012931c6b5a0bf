"""`verify_cache`: stored answers are computed again, and the cache is left as it was."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import attrs
import numpy as np
import pytest

from asteady import (
    InvalidRequestError,
    Session,
    SessionNotOpenError,
    StoreError,
    blocking,
)
from asteady._base.requests import EmbedRequest, GenerateRequest, TokenLogprob
from asteady.cli import main
from asteady.operate import verify_cache
from asteady.operate._verify import difference
from asteady.testing import FakeEngine
from tests.cache.helpers import completion, embedding

pytestmark = pytest.mark.anyio


async def ask(session: Session, count: int, **options: Any) -> None:
    for number in range(count):
        await session.generate(f"prompt {number}", **options)


async def test_the_answers_of_the_built_in_models_are_the_same() -> None:
    async with Session(workers=1) as session:
        await ask(session, 4, max_new_tokens=6)
        await session.complete("sampled", temperature=1.2, logprobs=2, max_new_tokens=6)
        await session.generate(messages=[{"role": "user", "content": "hi"}], max_new_tokens=4)
        await session.embed(["one", "two"])
        told: list[int] = []
        report = await verify_cache(session, progress=told.append)
        vectors = await verify_cache(session, kind="embedding")
    assert report.ok
    assert (report.entries, report.same, report.compared, report.skipped) == (6, 6, 6, {})
    assert told == [1, 2, 3, 4, 5, 6]
    assert (vectors.kind, vectors.same, vectors.ok) == ("embedding", 2, True)
    assert report.remedy is None


async def test_entries_are_left_as_they_were(session: Session, engine: FakeEngine) -> None:
    await ask(session, 3)
    cache = session.cache.generation
    before = await cache.entries()
    stats = await cache.statistics()
    assert (await verify_cache(session)).same == 3
    cache.flush()
    await cache.delete("none")  # what was flushed is committed with it
    assert await cache.entries() == before
    after = await cache.statistics()
    for name in ("hits", "misses", "coalesced", "size", "memory_size"):
        assert after[name] == stats[name]
    assert len(engine.computed) == 6


async def test_an_answer_that_is_not_what_is_computed_is_found(
    session: Session, engine: FakeEngine
) -> None:
    await ask(session, 3)
    request = GenerateRequest.of("prompt 1")
    key = request.key(engine.fingerprint)
    stored = await session.cache.generation.get(key)
    assert stored is not None
    wrong = attrs.evolve(stored, text="You said: prompt X", chunks=("You said: prompt X",))
    assert await session.cache.generation.put(key, wrong, request=request)
    report = await verify_cache(session)
    assert not report.ok
    assert (report.compared, report.same) == (3, 2)
    (found,) = report.differences
    assert (found.key, found.request) == (key, {"prompt": "prompt 1"})
    assert "byte 17 of the text" in found.where
    assert "prompt X" in found.where
    assert "prompt 1" in found.where


async def test_a_vector_that_is_not_what_is_computed_is_found(
    session: Session, engine: FakeEngine
) -> None:
    request = EmbedRequest.of("text", mode="query")
    vector = embedding(*[0.5] * 4, *[0.0] * 4, fingerprint=engine.fingerprint)
    await session.cache.embedding.put(request.key(engine.fingerprint), vector, request=request)
    report = await verify_cache(session, kind="embedding")
    (found,) = report.differences
    assert found.request == {"text": "text", "mode": "query"}
    assert "component 0 of the vector: stored [0.5], computed [" in found.where


async def test_what_is_not_compared_is_counted_with_its_reason(
    session: Session, engine: FakeEngine, tmp_path: Path
) -> None:
    cache = session.cache.generation
    await ask(session, 4)
    await cache.put("a" * 64, completion())
    other = GenerateRequest.of("elsewhere")
    answer = completion(fingerprint="another")
    await cache.put(other.key("another"), answer, request=other)
    lied_about, damaged = (
        GenerateRequest.of(f"prompt {number}").key(engine.fingerprint) for number in (0, 1)
    )
    change = "UPDATE answer SET {} WHERE slot = (SELECT slot FROM entry WHERE key = ?)"
    with closing(sqlite3.connect(tmp_path / "caches" / "generation_cache.db")) as connection:
        connection.execute(change.format('request = \'{"prompt":"a lie"}\''), (lied_about,))
        connection.execute(change.format("text = x'00'"), (damaged,))
        connection.commit()
    report = await verify_cache(session)
    assert (report.entries, report.same) == (6, 2)
    assert report.skipped == {
        "keeps no request": 1,
        "of another model, build or CPU": 1,
        "keeps the request of another key": 1,
        "damaged": 1,
    }
    # Only who looks it up removes it.
    assert damaged in await cache.keys()


async def test_a_request_that_no_longer_fits_is_counted() -> None:
    engine = FakeEngine(context=3)
    async with Session(engine=engine, workers=1) as session:
        request = GenerateRequest.of("one two three four")
        answer = completion(fingerprint=engine.fingerprint)
        await session.cache.generation.put(request.key("fake-1"), answer, request=request)
        report = await verify_cache(session)
    assert report.skipped == {"its request does not fit the model": 1}
    assert report.remedy is not None


async def test_the_seed_selects_the_entries() -> None:
    engine = FakeEngine()
    async with Session(engine=engine, workers=1) as session:
        await ask(session, 12)

        async def drawn(seed: int) -> list[Any]:
            begun = len(engine.computed)
            report = await verify_cache(session, requests=4, seed=seed)
            assert (report.compared, report.skipped) == (4, {"not in the sample": 8})
            return engine.computed[begun:]

        first = await drawn(0)
        await session.generate("prompt 3")
        session.cache.generation.flush()
        await session.cache.generation.delete("none")  # what was flushed is committed with it
        assert (await session.cache.generation.entries(1, "last_used"))[0].prompt == "prompt 3"
        assert await drawn(0) == first
        assert await drawn(1) != first


async def test_if_nothing_can_be_compared_the_report_has_a_remedy(
    engine: FakeEngine, tmp_path: Path
) -> None:
    async with Session(engine=engine, keep_requests_bytes=0) as session:
        empty = await verify_cache(session)
        assert empty.ok
        assert empty.remedy == "the generation cache is empty: there is nothing to compare"
        await ask(session, 2)
        report = await verify_cache(session)
        assert (report.ok, report.compared) == (True, 0)
        assert report.remedy is not None
        assert "ASTEADY_KEEP_REQUESTS_BYTES" in report.remedy
        assert "(it is 0)" in report.remedy
    engine.fingerprint = "fake-2"
    async with Session(engine=engine) as session:
        await session.generate("prompt 0", cache="refresh")
    engine.fingerprint = "fake-3"
    async with Session(engine=engine) as session:
        remedy = (await verify_cache(session)).remedy
        assert remedy is not None
        assert "not of builtin as it is computed here" in remedy


@pytest.mark.parametrize(
    "wrong", [{"requests": 0}, {"requests": True}, {"kind": "video"}, {"seed": "x"}]
)
async def test_invalid_arguments_are_refused(wrong: dict[str, Any], session: Session) -> None:
    with pytest.raises(InvalidRequestError, match=str(next(iter(wrong)))):
        await verify_cache(session, **wrong)


async def test_without_a_cache_there_is_nothing_to_compare(engine: FakeEngine) -> None:
    async with Session(engine=engine, disable_cache=True) as session:
        with pytest.raises(StoreError, match="disable_cache"):
            await verify_cache(session)
    with pytest.raises(SessionNotOpenError):
        await verify_cache(Session(engine=engine))


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({}, None),
        ({"cost_s": 9.0, "cached": True}, None),
        ({"text": "An answer!", "chunks": tuple("An answer!")}, "byte 9 of the text: stored b'An"),
        (
            {"text": "An answer and", "chunks": ("An answer and",)},
            "byte 9 of the text: stored b'An",
        ),
        ({"chunks": ("An answer",)}, "chunks: stored ('A', "),
        ({"finish_reason": "length"}, "finish_reason: stored 'stop', computed 'length'"),
        ({"completion_tokens": 1}, "completion_tokens: stored 9, computed 1"),
        ({"logprobs": ()}, "logprobs: stored None, computed ()"),
    ],
)
def test_the_first_difference_of_completions_is_described(
    changes: dict[str, Any], where: str | None
) -> None:
    found = difference(completion(), attrs.evolve(completion(), **changes))
    assert found is where is None or (found is not None and found.startswith(where or "?"))


def test_the_first_token_whose_log_probability_differs_is_named() -> None:
    tokens = [TokenLogprob(token_id=n, token=b"x", logprob=0.0) for n in range(3)]
    one = attrs.evolve(completion(), logprobs=tuple(tokens))
    for logprob in (-0.0, 5e-324):
        tokens[1] = attrs.evolve(tokens[1], logprob=logprob)
        other = attrs.evolve(one, logprobs=tuple(tokens))
        found = difference(one, other, ("alone", "in company"))
        assert found is not None
        assert found.startswith("logprobs[1]: alone TokenLogprob(token_id=1, ")
        assert ", in company TokenLogprob(token_id=1, " in found


def test_the_first_difference_of_embeddings_is_described() -> None:
    one = embedding(0.5, 0.25)
    assert difference(one, attrs.evolve(one, cost_s=9.0, cached=True)) is None
    assert difference(one, attrs.evolve(one, tokens=3)) == "tokens: stored 2, computed 3"
    nearly = np.nextafter(np.float32(0.25), np.float32(1))
    found = difference(one, embedding(0.5, nearly))
    assert found == "component 1 of the vector: stored [0.25], computed [0.2500000298023224]"
    assert (
        difference(one, embedding(0.5)) == "component 1 of the vector: stored [0.25], computed []"
    )


# -- blocking, and the command --------------------------------------------------------------------


def test_it_is_called_without_await() -> None:
    with blocking.Session(engine=FakeEngine()) as session:
        session.generate("hi")
        (key,) = session.cache.generation.keys()
        assert session.cache.generation.request(key) == GenerateRequest.of("hi")
        assert blocking.verify_cache(session).same == 1


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASTEADY_WORKERS", "1")
    monkeypatch.setenv("ASTEADY_BATCH_WIDTH", "1")


def test_the_command_prints_a_table(small: None, capsys: pytest.CaptureFixture[str]) -> None:
    for prompt in ("hi", "a haiku"):
        assert main(["generate", prompt, "--max-new-tokens", "3"]) == 0
    capsys.readouterr()
    assert main(["verify", "--cache", "--requests", "1"]) == 0
    shown = capsys.readouterr()
    assert [line.rsplit(maxsplit=1) for line in shown.out.splitlines()] == [
        ["computed again", "1"],
        ["the same", "1"],
        ["different", "0"],
        ["not in the sample", "1"],
        ["all entries", "2"],
    ]
    assert shown.err == ""
    assert main(["verify", "--cache", "--json", "--seed", "3"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["compared"], report["entries"]) == (True, 2, 2)


def test_the_command_exits_with_1_at_a_difference(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "hi", "--max-new-tokens", "3", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)

    async def falsify() -> str:
        request = GenerateRequest.of("hi", max_new_tokens=3)
        key = request.key(answer["fingerprint"])
        async with Session() as session:
            cache = session.cache.generation
            found = await cache.get(key)
            assert found is not None
            wrong = attrs.evolve(found, text="never", chunks=("never",))
            assert await cache.put(key, wrong, request=request)
        return key

    key = anyio.run(falsify)
    assert main(["verify", "--cache"]) == 1
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-3:-1] == [key, '{"prompt": "hi", "max_new_tokens": 3}']
    assert shown.out.splitlines()[-1].startswith("byte 0 of the text: stored b'never', computed")
    assert "1 of 1 entries differ from what is computed" in shown.err
    assert shown.err.count("\n") == 1
    assert main(["verify", "--cache", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["differences"][0]["key"] == key


def test_the_command_says_why_there_is_nothing_to_compare(
    small: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "--cache", "--embedding"]) == 0
    assert "the embedding cache is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cache", "--prompts", "x.txt"], "--prompts cannot be used with --cache"),
        (["--cache", "--max-new-tokens", "3"], "--max-new-tokens cannot be used with --cache"),
        (["--seed", "3"], "--seed can only be used with --cache"),
    ],
)
def test_the_command_refuses_conflicting_options(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", *arguments]) == 2
    assert said in capsys.readouterr().err
