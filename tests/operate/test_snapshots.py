"""Snapshots of the caches, their trends, and entries exported and imported."""

from __future__ import annotations

import json
import logging
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

import asteady
from asteady import InvalidRequestError, Session, SettingsError, StoreError, blocking
from asteady.operate import CachePersistenceManager
from asteady.testing import FakeEngine
from tests.cli.test_cli import run

pytestmark = pytest.mark.anyio


def snapshot(timestamp: str, size: int, hit_rate: float, capacity: int = 256) -> dict[str, Any]:
    """As SteadyText's users have them."""
    cache = {"size": size, "capacity": capacity, "hit_rate": hit_rate}
    return {"timestamp": timestamp, "generation_cache": cache, "embedding_cache": cache}


def keep(directory: Path, **snapshots: object) -> None:
    directory.mkdir(exist_ok=True)
    for name, content in snapshots.items():
        (directory / f"cache_state_{name}.json").write_text(json.dumps(content))


@pytest.fixture
def persistence(session: Session, tmp_path: Path) -> CachePersistenceManager:
    return CachePersistenceManager(session, backup_dir=tmp_path / "made" / "backups")


# -- writing ---------------------------------------------------------------------------------------


async def test_a_snapshot_has_sizes_and_hit_rates(
    session: Session, persistence: CachePersistenceManager
) -> None:
    for _ in range(4):
        await session.generate("hi")
    await session.embed("a cache")
    path = await persistence.save_cache_state("before_optimization")
    assert path == persistence.backup_dir / "cache_state_before_optimization.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [child.name for child in persistence.backup_dir.iterdir()] == [path.name]
    kept = json.loads(path.read_text())
    assert kept["timestamp"].endswith("+00:00")
    generation, embedding = kept["generation_cache"], kept["embedding_cache"]
    assert (generation["size"], generation["capacity"], generation["hit_rate"]) == (1, 256, 75.0)
    assert (embedding["size"], embedding["capacity"], embedding["hit_rate"]) == (1, 512, 0.0)
    assert generation["size_bytes"] > 0
    assert generation["all_hit_rate"] == 75.0


async def test_without_look_ups_rates_are_zero(persistence: CachePersistenceManager) -> None:
    metadata = await persistence.export_cache_metadata()
    assert metadata["generation_cache"]["hit_rate"] == 0.0
    assert not persistence.backup_dir.exists()


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b", "ü", "x" * 101, "a\n", 7])
async def test_a_name_that_could_lead_elsewhere_is_refused(
    name: Any, persistence: CachePersistenceManager
) -> None:
    with pytest.raises(InvalidRequestError, match="is not allowed"):
        await persistence.save_cache_state(name)
    assert not persistence.backup_dir.exists()


async def test_the_default_session_is_used_without_one(tmp_path: Path) -> None:
    persistence = CachePersistenceManager(backup_dir=tmp_path)
    await persistence.save_cache_state("default")
    assert (await persistence.history())[0]["generation_cache"]["size"] == 0
    await asteady.aclose()


# -- reading ---------------------------------------------------------------------------------------


async def test_the_history_is_in_the_order_of_time_and_has_trends(
    session: Session, tmp_path: Path
) -> None:
    keep(
        tmp_path / "h",
        a_last=snapshot("2026-01-05T00:00:00+00:00", 140, 90.0),
        b_first=snapshot("2026-01-01T00:00:00+00:00", 100, 50.0),
        c_middle=snapshot("2026-01-03T01:00:00+01:00", 120, 70.0),
    )
    analysis = await CachePersistenceManager(
        session, backup_dir=tmp_path / "h"
    ).analyze_cache_history()
    assert json.loads(json.dumps(analysis)) == analysis
    assert analysis["total_snapshots"] == 3
    assert analysis["date_range"] == {
        "start": "2026-01-01T00:00:00+00:00",
        "end": "2026-01-05T00:00:00+00:00",
    }
    trend = analysis["generation_cache_trend"]
    assert trend == {
        "min_size": 100,
        "max_size": 140,
        "avg_hit_rate": pytest.approx(70.0),
        "first_size": 100,
        "last_size": 140,
        "size_change": 40,
        "size_per_day": pytest.approx(10.0),
        "full_in_days": pytest.approx(11.6),
        "last_hit_rate": 90.0,
        "hit_rate_change": 40.0,
        "hit_rate_per_day": pytest.approx(10.0),
    }
    assert analysis["embedding_cache_trend"] == trend
    assert analysis["unreadable"] == []


async def test_a_burst_of_a_minute_has_no_daily_trend(tmp_path: Path) -> None:
    persistence = CachePersistenceManager(backup_dir=tmp_path)
    keep(tmp_path, one=snapshot("2026-01-02T00:00:00+00:00", 1, 5.0))
    keep(tmp_path, two=snapshot("2026-01-02T00:01:00+00:00", 9, 5.0))
    trend = (await persistence.analyze_cache_history())["generation_cache_trend"]
    assert trend["size_change"] == 8
    assert trend["size_per_day"] is trend["full_in_days"] is None


async def test_one_snapshot_has_no_slope_and_a_cache_that_shrinks_is_never_full(
    tmp_path: Path,
) -> None:
    persistence = CachePersistenceManager(backup_dir=tmp_path)
    keep(tmp_path, one=snapshot("2026-01-02T00:00:00+00:00", 9, 5.0))
    trend = (await persistence.analyze_cache_history())["generation_cache_trend"]
    assert trend["size_per_day"] is trend["full_in_days"] is trend["hit_rate_per_day"] is None
    keep(tmp_path, two=snapshot("2026-01-03T00:00:00+00:00", 3, 5.0))
    trend = (await persistence.analyze_cache_history())["generation_cache_trend"]
    assert (trend["size_per_day"], trend["full_in_days"]) == (pytest.approx(-6.0), None)


async def test_snapshots_of_steadytext_are_local_times(tmp_path: Path) -> None:
    keep(
        tmp_path,
        theirs=snapshot("2026-01-02T10:00:00.123456", 9, 5.0),
        ours=snapshot("2030-01-01T00:00:00+00:00", 9, 5.0),
    )
    history = await CachePersistenceManager(backup_dir=tmp_path).history()
    assert [kept["filename"] for kept in history] == [
        "cache_state_theirs.json",
        "cache_state_ours.json",
    ]


async def test_files_that_cannot_be_read_are_listed_and_others_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = snapshot("2026-01-02T10:00:00+00:00", 9, 5.0)
    keep(
        tmp_path,
        good=good,
        a_list=[1],
        no_time={**good, "timestamp": "yesterday"},
        no_number={**good, "embedding_cache": {"size": "9", "capacity": 1, "hit_rate": 1}},
        infinite={**good, "embedding_cache": {"size": 9, "capacity": 1, "hit_rate": 1e999}},
        missing={**good, "embedding_cache": {}},
    )
    (tmp_path / "cache_state_half.json").write_text('{"timestamp"')
    (tmp_path / "cache_state_binary.json").write_bytes(b"\xff\xfe")
    (tmp_path / "cache_state_deep.json").write_text("[" * 200_000)
    (tmp_path / "cache_state_large.json").write_text(json.dumps(good) + " " * 1024 * 1024)
    (tmp_path / "cache_state_directory.json").mkdir()
    with caplog.at_level(logging.WARNING, "asteady"):
        analysis = await CachePersistenceManager(backup_dir=tmp_path).analyze_cache_history()
    assert analysis["total_snapshots"] == 1
    assert len(analysis["unreadable"]) == caplog.text.count("cannot be read:") == 10


async def test_without_history_the_error_is_that_of_the_guide(
    persistence: CachePersistenceManager, tmp_path: Path
) -> None:
    assert await persistence.analyze_cache_history() == {"error": "No cache history found"}
    with pytest.raises(InvalidRequestError, match="there is no snapshot"):
        await persistence.plot_history(tmp_path / "out.png")


async def test_the_history_is_drawn(persistence: CachePersistenceManager, tmp_path: Path) -> None:
    keep(
        persistence.backup_dir.parent.parent / "h",
        one=snapshot("2026-01-01T00:00:00+00:00", 100, 50.0),
        two=snapshot("2026-01-05T00:00:00+00:00", 140, 90.0),
    )
    persistence.backup_dir = tmp_path / "h"
    drawn = await persistence.plot_history(tmp_path / "out.svg")
    assert "<svg" in drawn.read_text()
    with pytest.raises(InvalidRequestError, match=r"out\.poem"):
        await persistence.plot_history(tmp_path / "out.poem")


async def test_without_matplotlib_the_plot_says_what_to_install(
    persistence: CachePersistenceManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await persistence.save_cache_state("now")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SettingsError, match=r"asteady\[plot\]"):
        await persistence.plot_history(tmp_path / "out.png")


# -- entries ---------------------------------------------------------------------------------------


async def test_answers_of_one_session_are_another_sessions_too(
    session: Session, persistence: CachePersistenceManager, tmp_path: Path
) -> None:
    result = await session.complete("hi", seed=7)
    vector = await session.embed("a cache")
    done = await persistence.export_entries(tmp_path / "entries.db")
    assert (done.generation, done.embedding) == (1, 1)
    other_engine = FakeEngine()
    async with Session(engine=other_engine, cache_dir=tmp_path / "elsewhere") as other:
        merged = await CachePersistenceManager(other).import_entries(tmp_path / "entries.db")
        assert (merged["generation"].added, merged["embedding"].added) == (1, 1)
        found = await other.complete("hi", seed=7, cache="only")
        assert (found.text, found.chunks, found.cost_s) == (
            result.text,
            result.chunks,
            result.cost_s,
        )
        assert (await other.embed("a cache", cache="only")).tolist() == vector.tolist()
        with pytest.raises(StoreError, match="more than the 10 allowed"):
            await CachePersistenceManager(other).import_entries(
                tmp_path / "entries.db", max_file_bytes=10
            )


def test_entries_move_without_await(tmp_path: Path) -> None:
    file = tmp_path / "entries.db"
    with blocking.Session(engine=FakeEngine()) as session:
        session.generate("hi")
        assert session.cache.export_entries(file).generation == 1
    with blocking.Session(engine=FakeEngine(), cache_dir=tmp_path / "elsewhere") as session:
        assert session.cache.import_entries(file)["generation"].added == 1
        assert session.is_cached("hi")


def test_the_commands_move_entries_between_directories(tmp_path: Path) -> None:
    file, elsewhere = str(tmp_path / "entries.db"), str(tmp_path / "elsewhere")
    assert run("generate", "hi", "--max-new-tokens", "3").returncode == 0
    done = run("cache", "export", file)
    assert done.stdout.startswith("wrote 1 generation and 0 embedding entries to ")
    assert json.loads(run("cache", "export", file, "--json").stdout)["generation"] == 1
    done = run("cache", "import", file, ASTEADY_CACHE_DIR=elsewhere)
    assert done.stdout.startswith("generation: 1 in the file, 1 added, 0 already present")
    again = json.loads(run("cache", "import", file, "--json", ASTEADY_CACHE_DIR=elsewhere).stdout)
    assert again["generation"]["known"] == 1
    asked = ("generate", "hi", "--max-new-tokens", "3", "--cache", "only")
    assert run(*asked, ASTEADY_CACHE_DIR=elsewhere).stdout == run(*asked).stdout != ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("import", "missing.db"), "No such file"),
        (("import", "missing.db", "--max-size-mb", "-1"), "is not allowed"),
        (("export", "/dev/null"), "is not overwritten"),
    ],
)
def test_the_commands_say_what_is_wrong(arguments: tuple[str, ...], message: str) -> None:
    done = run("cache", *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
