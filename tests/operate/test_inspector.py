"""Traces, also of concurrent calls; their analysis; explanations of entries."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import anyio
import attrs
import pytest

from asteady import CacheMissError, InvalidRequestError, Session
from asteady._base.requests import Completion
from asteady.operate import CacheInspector, Observed
from asteady.operate._inspector import duration_text
from asteady.testing import FakeEngine
from tests.waiting import until

pytestmark = pytest.mark.anyio


async def test_a_trace_has_the_fields_of_the_guide(session: Session) -> None:
    inspector = CacheInspector(session)
    first = await inspector.trace_generation("Write a program", seed=42)
    again = await inspector.trace_generation("Write a program", seed=42)
    other = await inspector.trace_generation("Write a program", seed=100)
    assert [t.outcome for t in (first, again, other)] == ["computed", "memory", "computed"]
    assert [t.cache_hit for t in (first, again, other)] == [False, True, False]
    sizes = [(t.cache_size_before, t.cache_size_after) for t in (first, again, other)]
    assert sizes == [(0, 1), (1, 1), (1, 2)]
    assert (first.prompt, first.seed, first.kind) == ("Write a program", 42, "generation")
    assert first.result_preview == "You said: Write a program"
    assert first.duration_s > 0
    assert inspector.generation_log == [first, again, other]
    inspector.clear()
    assert inspector.generation_log == []


async def test_the_seed_may_be_the_second_argument_as_in_the_guide(session: Session) -> None:
    inspector = CacheInspector(session)
    assert (await inspector.trace_generation("hi", 7)).seed == 7
    assert (await inspector.trace_generation("hi", seed=7)).cache_hit
    with pytest.raises(InvalidRequestError, match="did you mean 'max_new_tokens'"):
        await inspector.trace_generation("hi", max_new_token=7)


async def test_traces_of_concurrent_calls_are_exact(session: Session, engine: FakeEngine) -> None:
    inspector = CacheInspector(session)
    await session.generate("known")
    engine.hold()
    miss = asyncio.create_task(inspector.trace_generation("new"))
    await engine.wait_computed(2)
    wait = asyncio.create_task(inspector.trace_generation("new"))
    await anyio.wait_all_tasks_blocked()
    await until(lambda: session.cache.generation.counters.coalesced)
    # Unused for half a second, on a busy machine, the memory tier would sleep.
    await session.generate("known")
    hit = await inspector.trace_generation("known")
    engine.resume()
    assert [(await t).outcome for t in (miss, wait)] == ["computed", "coalesced"]
    assert hit.outcome == "memory"
    assert all(trace.cache_size_after is not None for trace in inspector.generation_log)
    analysis = inspector.analyze()
    assert (analysis.cache_hits, analysis.cache_misses, analysis.coalesced) == (1, 1, 1)
    assert analysis.hit_rate == 50.0


async def test_everything_can_be_traced_within_bounds(session: Session) -> None:
    inspector = CacheInspector(session, limit=3)
    with inspector.tracing():
        await session.generate("dropped")
        await session.generate(messages=[{"role": "user", "content": "x" * 2000}])
        await session.embed("a text")
        with pytest.raises(CacheMissError):
            await session.generate("missing", cache="only")
    await session.generate("later")
    completion, embedding, failed = inspector.generation_log
    assert completion.prompt == "user: " + "x" * 991 + "..."
    assert (embedding.kind, embedding.seed) == ("embedding", None)
    assert embedding.result_preview == "vector of 8"
    assert failed.outcome == "failed"
    assert failed.error is not None
    assert failed.error.startswith("CacheMissError: ")
    assert inspector.analyze().failed == 1
    with pytest.raises(InvalidRequestError, match="limit=0"):
        CacheInspector(session, limit=0)


async def test_a_call_that_fails_is_traced_and_raises(session: Session) -> None:
    inspector = CacheInspector(session)
    with pytest.raises(CacheMissError):
        await inspector.trace_generation("missing", cache="only")
    with pytest.raises(InvalidRequestError):
        await inspector.trace_generation("")
    assert [trace.outcome for trace in inspector.generation_log] == ["failed"]
    assert inspector.generation_log[0].cache_size_before == 0


async def test_the_analysis_counts_what_hits_would_have_cost(session: Session) -> None:
    inspector = CacheInspector(session)
    assert inspector.analyze_cache_behavior().hit_rate == 0.0
    calls: list[Observed] = []
    with session.observe(calls.append):
        for _ in range(3):
            await session.generate("hi")
    answer = completion(cost_s=0.003)
    inspector.observe(calls[0])
    inspector.observe(attrs.evolve(calls[1], answer=answer, duration_s=0.0005))
    inspector.observe(attrs.evolve(calls[2], answer=answer, duration_s=0.002))
    analysis = inspector.analyze_cache_behavior()
    assert analysis.total_generations == 3
    assert analysis.time_saved_s == pytest.approx(0.0035)
    assert analysis.compute_saved_s == pytest.approx(0.006)
    assert analysis.avg_hit_time_s == pytest.approx(0.00125)
    assert analysis.avg_miss_time_s > 0


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*trace*"))


async def test_traces_are_exported(session: Session, tmp_path: Path) -> None:
    inspector = CacheInspector(session)
    for _ in range(2):
        await inspector.trace_generation("hi ü")
    path = await inspector.export_trace_log(tmp_path / "trace.json")
    records = json.loads(path.read_text("utf-8"))
    assert [record["cache_hit"] for record in records] == [False, True]
    assert records[0]["prompt"] == "hi ü"
    assert path.stat().st_mode & 0o077 == 0
    lines = (await inspector.export(tmp_path / "trace.jsonl")).read_text("utf-8").splitlines()
    assert list(map(json.loads, lines)) == records
    with pytest.raises(FileNotFoundError):
        await inspector.export(tmp_path / "missing" / "trace.json")
    (tmp_path / "directory").mkdir()
    with pytest.raises(OSError, match="directory"):
        await inspector.export(tmp_path / "directory")
    assert names_in(tmp_path) == ["trace.json", "trace.jsonl"]


def completion(cost_s: float) -> Completion:
    return Completion(
        text="text",
        chunks=("text",),
        finish_reason="stop",
        prompt_tokens=1,
        completion_tokens=1,
        seed=42,
        model="fake",
        fingerprint="f",
        cost_s=cost_s,
    )


async def test_an_entry_is_explained(engine: FakeEngine) -> None:
    async with Session(engine=engine, generation_cache_capacity=2) as session:
        inspector = CacheInspector(session)
        cache = session.cache.generation
        await cache.put("a" * 64, completion(1.0))
        alone = await inspector.explain("a" * 64)
        assert not alone.full
        assert "1 of 2 entries, so nothing is evicted." in str(alone)
        await cache.put("b" * 64, completion(9.0))
        cheap, dear = await inspector.explain("a" * 64), await inspector.explain("b" * 64)
        assert (cheap.goes_after, dear.goes_after) == (0, 1)
        assert "this one is the next to be evicted" in cheap.text
        assert "1 would be evicted before this one" in dear.text
        assert "It was used once" in dear.text
        assert "9 s to compute" in dear.text
        assert "the tide" in dear.text
        assert dear.share_of_budget == 0.5
        assert dear.entry is not None
        assert dear.entry.cost_s == 9.0
        await cache.put("c" * 64, completion(5.0))
        gone = await inspector.explain("a" * 64)
        assert gone.entry is None
        assert "evicted" in gone.text


async def test_the_beginning_of_a_key_is_enough(session: Session) -> None:
    inspector = CacheInspector(session)
    for key in ("ab" + "0" * 62, "ac" + "0" * 62):
        await session.cache.generation.put(key, completion(1.0))
    explained = await inspector.explain("AB0")
    assert explained.key == "ab" + "0" * 62
    assert explained.entry is not None
    with pytest.raises(InvalidRequestError, match="2 entries have keys that begin with 'a'"):
        await inspector.explain("a")


async def test_a_whole_key_is_no_beginning_of_others(session: Session) -> None:
    inspector = CacheInspector(session)
    for key in ("K1", "K10", "k1"):
        await session.cache.generation.put(key, completion(1.0))
    for key in ("K1", "K10", "k1"):
        explained = await inspector.explain(key)
        assert explained.key == key
        assert explained.entry is not None


async def test_an_embedding_is_explained_too(session: Session) -> None:
    inspector = CacheInspector(session)
    with inspector.tracing(everywhere=False):
        await session.embed("a text")
    key = inspector.generation_log[0].key
    assert key is not None
    assert (await inspector.explain(key)).cache == "embedding"


def test_durations_have_a_fitting_unit() -> None:
    assert [duration_text(s) for s in (1, 119, 120, 7200, 200_000)] == [
        "1 s",
        "119 s",
        "2 min",
        "2 h",
        "2 d",
    ]
