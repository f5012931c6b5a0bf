"""The optimizer: what it learns from a session, stores between runs, recommends and draws."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

import pytest

from asteady import InvalidRequestError, Session, Settings, SettingsError
from asteady.operate import Access, CacheOptimizer
from asteady.operate._benchmark import write_accesses
from asteady.operate._plots import plot_sizing, sizing_table
from asteady.operate._sizing import UseCounts, state_path
from asteady.testing import FakeEngine
from tests.cli.test_cli import run

pytestmark = pytest.mark.anyio


def looped(keys: int, rounds: int) -> CacheOptimizer:
    optimizer = CacheOptimizer(settings=Settings(generation_cache_capacity=4))
    for _ in range(rounds):
        for n in range(keys):
            optimizer.record(
                Access(key=f"k{n}", size_bytes=1000, cost_s=2.0), prompt=f"prompt {n}", seed=n
            )
    return optimizer


async def test_it_sees_the_accesses_of_the_session(session: Session) -> None:
    async with CacheOptimizer(session) as optimizer:
        for _ in range(7):
            await session.generate("often", seed=3)
        await session.generate(messages=[{"role": "user", "content": "once"}])
        await session.embed("another cache's")
        with pytest.raises(InvalidRequestError):
            await session.generate("")
    await session.generate("later")
    found = optimizer.recommend(by="hits")
    assert (found.accesses, found.total_unique, found.frequently_used) == (8, 2, 1)
    assert found.entries == found.recommended_size == 1
    assert found.best_rate == pytest.approx(75.0)
    assert found.rate == found.current_rate == pytest.approx(75.0)
    assert found.current_entries == 256
    stored = {entry.key: entry for entry in await session.cache.generation.entries(-1)}
    often, once = optimizer.get_cache_priorities()
    assert (often.prompt, often.seed, often.count) == ("often", 3, 7)
    assert often.cost_s == stored[often.key].cost_s
    assert often.saves_s == pytest.approx(6 * often.cost_s)
    assert (once.prompt, once.saves_s) == ("once", 0.0)
    size_bytes = stored[often.key].size_bytes
    assert size_bytes <= found.size_bytes <= size_bytes * (1 + 1 / 256)
    assert optimizer.get_cache_priorities(top_n=1) == [often]
    assert repr(optimizer) == "<CacheOptimizer generation: 8 accesses>"


async def test_it_learns_of_embeddings_too(session: Session) -> None:
    async with CacheOptimizer(session, cache_type="embedding") as optimizer:
        await session.embed(["a", "b", "a"])
        await session.generate("another cache's")
    assert optimizer.recommend().accesses == 3
    assert optimizer.recommend().current_entries == 512
    assert optimizer.get_cache_priorities(1)[0].prompt == "a"


def test_the_smallest_capacity_that_is_enough_is_recommended() -> None:
    found = looped(20, 5).recommend(target=0.95)
    assert found.entries == 20
    assert 20_000 <= found.size_bytes <= 20_000 * (1 + 1 / 256)
    assert found.best_rate == found.rate == pytest.approx(80.0)
    assert found.current_rate == 0.0
    assert "room for 20 entries and 19.6 kB saves 80.0 % of the computing time" in str(found)
    nothing = looped(3, 1).recommend_cache_size()
    assert (nothing.entries, nothing.size_bytes, nothing.best_rate) == (0, 0, 0.0)


def test_seconds_and_hits_may_want_different_sizes() -> None:
    optimizer = CacheOptimizer(remember=False)
    for n in range(200):
        optimizer.record(Access(key="cheap", size_bytes=10, cost_s=0.001))
        if n % 50 == 0:
            for dear in range(10):
                optimizer.record(Access(key=f"dear {dear}", size_bytes=10, cost_s=30.0))
    assert optimizer.recommend(0.8, by="hits").entries == 1
    assert optimizer.recommend(0.8, by="seconds").entries == 11


def test_mistakes_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="target=0"):
        looped(1, 1).recommend(0)
    with pytest.raises(InvalidRequestError, match="by='bytes'"):
        looped(1, 1).recommend(by="bytes")  # type: ignore[arg-type]  # as a user might
    with pytest.raises(InvalidRequestError, match="max_keys=0"):
        CacheOptimizer(max_keys=0)


def test_usage_may_be_recorded_by_hand() -> None:
    optimizer = CacheOptimizer()
    for prompt, seed, took_s in (("a", 1, 2.0), ("a", 1, 2.0), ("a:1", 1, 9.0), ("a", 11, 1.0)):
        optimizer.track_usage(prompt, seed, took_s)
    first = optimizer.get_cache_priorities()[0]
    assert (first.prompt, first.seed, first.count, first.saves_s) == ("a", 1, 2, 2.0)
    assert optimizer.recommend().total_unique == 3


async def test_what_it_learnt_adds_up_over_runs(engine: FakeEngine) -> None:
    for _ in range(2):
        async with Session(engine=engine) as session:
            async with CacheOptimizer(session) as optimizer:
                await session.generate("hi")
                await session.generate("hi")
            path = state_path(session.settings, "generation")
            assert path.stat().st_mode & 0o077 == 0
    assert optimizer.recommend().accesses == 4
    assert optimizer.get_cache_priorities()[0].count == 4
    async with (
        Session(engine=engine) as session,
        CacheOptimizer(session, remember=False) as optimizer,
    ):
        pass
    assert optimizer.recommend().accesses == 0


async def test_a_disabled_cache_writes_nothing(engine: FakeEngine) -> None:
    async with Session(engine=engine, disable_cache=True) as session:
        async with CacheOptimizer(session) as optimizer:
            await session.generate("hi")
            await session.generate("hi")
        assert not state_path(session.settings, "generation").exists()
    assert optimizer.recommend(by="hits").best_rate == 50.0


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"version": 9}', '{"version": 1, "distances": {}}']
)
def test_a_file_that_is_not_valid_is_ignored(
    content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "state.json"
    path.write_text(content)
    optimizer = looped(2, 2)
    with caplog.at_level(logging.WARNING, "asteady"):
        assert optimizer.load(path) is False
    assert "starting from nothing" in caplog.text
    assert optimizer.recommend().accesses == 4
    assert optimizer.load(tmp_path / "missing") is False


async def test_a_state_that_cannot_be_written_is_logged(
    session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with CacheOptimizer(session) as optimizer:

        async def failing() -> None:
            raise OSError("no space left")

        monkeypatch.setattr(optimizer, "save", failing)
    assert "no space left" in caplog.text


def test_uses_are_bounded_and_the_best_are_kept() -> None:
    uses = UseCounts(limit=10)
    for n in range(100):
        uses.add(Access(key="best", size_bytes=1, cost_s=1.0))
        uses.add(Access(key=f"k{n}", size_bytes=1, cost_s=1.0))
    assert len(uses) <= 20
    assert uses.top(1)[0].count == 100


def test_the_curve_is_drawn_as_text() -> None:
    optimizer = looped(20, 5)
    lines = sizing_table(optimizer, optimizer.recommend()).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["1", "2", "4", "8", "16", "20", "32"]
    assert lines[3].endswith("<- now")
    assert lines[6].split() == [
        *("20", "80.0", "80.0", "#" * 32, "<-", "95", "%", "of", "the", "best", "possible"),
    ]
    small = looped(4, 5)
    assert "<- now <- 95 % of the best possible" in sizing_table(small, small.recommend())
    assert "<- now" in sizing_table(looped(1, 1), looped(1, 1).recommend())


def test_the_curve_is_drawn_into_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = looped(20, 5)
    for name, start in (("out.png", b"\x89PNG"), ("out.svg", b"<?xml")):
        plot_sizing(optimizer, optimizer.recommend(), tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    plot_sizing(looped(1, 1), looped(1, 1).recommend(), tmp_path / "nothing.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SettingsError, match=r"this needs matplotlib: .*asteady\[plot\]"):
        plot_sizing(optimizer, optimizer.recommend(), tmp_path / "out.png")


async def test_the_command_shows_what_was_recorded(engine: FakeEngine, tmp_path: Path) -> None:
    missing = run("cache", "size")
    assert missing.returncode == 1
    assert "attach a CacheOptimizer" in missing.stderr
    async with Session(engine=engine) as session, CacheOptimizer(session):
        for _ in range(3):
            await session.generate("hi")
    picture = os.path.join(tmp_path, "out.png")
    shown = run("cache", "size", "--plot", picture)
    assert shown.returncode == 0, shown.stderr
    assert "<- now" in shown.stdout
    assert "room for 1 entry and" in shown.stdout
    assert first_bytes(picture) == b"\x89PNG"
    refused = run("cache", "size", "--plot", str(tmp_path / "out.xyz"))
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"asteady: {tmp_path / 'out.xyz'}: ")


def first_bytes(path: str) -> bytes:
    return Path(path).read_bytes()[:4]


def test_the_command_reads_a_file_of_accesses(tmp_path: Path) -> None:
    file = tmp_path / "accesses.tsv"
    file.write_bytes(
        write_accesses([Access(key=key, size_bytes=10, cost_s=1.0) for key in "abcabcabc"])
    )
    arguments = ("cache", "size", "--accesses", str(file), "--by", "hits", "--target", "0.5")
    result = json.loads(run(*arguments, "--json", ASTEADY_GENERATION_CACHE_CAPACITY="2").stdout)
    assert (result["entries"], result["size_bytes"], result["current_rate"]) == (3, 30, 0.0)
