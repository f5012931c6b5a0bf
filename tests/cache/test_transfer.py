"""Entries go from one cache to another through a file; a bad file changes nothing."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asteady._errors import SessionNotOpenError, StoreError, StoreVersionError
from asteady._requests import TokenLogprob
from asteady.cache import _export_file, _import_file, _merging, _transfer
from asteady.cache._codec import CompletionCodec, EmbeddingCodec, checksum
from asteady.cache._export_file import EXPORT_VERSION, MAX_TOUCHES
from asteady.cache._frecency import POLICIES, Budget, Row, State
from asteady.cache._manager import CacheManager
from asteady.cache._merging import standing
from asteady.cache._store import Incoming
from tests.cache.helpers import Process, completion, embedding, key_of, opened, settings

pytestmark = pytest.mark.anyio


async def fill(manager: CacheManager, names: range, **fields: Any) -> None:
    for n in names:
        await manager.generation.put(key_of(n), completion(f"answer {n}", **fields))


async def flushed(manager: CacheManager) -> None:
    """Tell the store of all uses, and wait until it knows."""
    manager.generation._keeper.flush()
    await manager.generation.delete("none")


@pytest.fixture
async def export(tmp_path: Path) -> Path:
    """Three completions and a vector, exported from a cache of their own."""
    path = tmp_path / "export.db"
    async with opened(tmp_path / "other") as other:
        await fill(other, range(3))
        await other.embedding.put(key_of("v"), embedding(0.6, 0.8))
        await other.export_entries(path)
    return path


def change(path: Path, *statements: str, parameters: tuple[Any, ...] = ()) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement, parameters)


async def refused(manager: CacheManager, path: Path, match: str, **options: Any) -> None:
    """The file is refused, and the cache is as it was."""
    await manager.generation.put(key_of(0), completion("ours"))
    before = (manager.directory / "generation_cache.db").read_bytes()
    with pytest.raises(StoreError, match=match):
        await manager.import_entries(path, **options)
    assert (manager.directory / "generation_cache.db").read_bytes() == before
    assert await manager.generation.keys() == [key_of(0)]
    assert await manager.embedding.keys() == []
    # It is not taken for damage of our own.
    assert not list(manager.directory.glob("*damaged*"))
    found = await manager.generation.get(key_of(0))
    assert found is not None
    assert found.text == "ours"


# -- there and back --------------------------------------------------------------------------------


async def test_all_that_was_exported_is_there_after_the_import(
    manager: CacheManager, tmp_path: Path
) -> None:
    logprobs = (TokenLogprob(token_id=1, token=b"\xff", logprob=-0.1, top=((1, b"\xff", -0.1),)),)
    told = completion("ünï\ncode", chunks=("ünï", "\n", "code"), logprobs=logprobs)
    path = tmp_path / "export.db"
    async with opened(tmp_path / "other") as other:
        await other.generation.put(key_of("told"), told)
        await other.generation.put(key_of("empty"), completion(""))
        await other.embedding.put(key_of("v"), embedding(0.6, 0.8))
        done = await other.export_entries(path)
    assert (done.generation, done.embedding, done.path) == (2, 1, path)
    assert done.size_bytes == path.stat().st_size
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(child.name for child in tmp_path.iterdir()) == ["caches", "export.db", "other"]

    merged = await manager.import_entries(path)
    assert (merged["generation"].entries, merged["generation"].added) == (2, 2)
    assert (merged["embedding"].entries, merged["embedding"].added) == (1, 1)
    found = await manager.generation.get(key_of("told"))
    assert found is not None
    assert (found.chunks, found.logprobs, found.cost_s) == (told.chunks, logprobs, 0.5)
    vector = await manager.embedding.get(key_of("v"))
    assert vector is not None
    assert vector.vector.tolist() == embedding(0.6, 0.8).vector.tolist()


async def test_an_import_is_still_there_after_a_restart(export: Path, directory: Path) -> None:
    async with opened(directory) as manager:
        await manager.import_entries(export)
    async with opened(directory) as manager:
        assert await manager.generation.keys() == sorted(key_of(n) for n in range(3))
        stats = await manager.get_cache_stats()
        assert stats["generation"]["size"] == 3
        # What the budgets are held by is the truth.
        sizes = [entry.size_bytes for entry in await manager.generation.entries(-1)]
        assert stats["generation"]["total_size_bytes"] == sum(sizes)


async def test_a_second_import_of_the_same_file_changes_no_answer(
    manager: CacheManager, export: Path
) -> None:
    await manager.import_entries(export)
    first = await manager.generation.entries(-1)
    again = await manager.import_entries(export)
    assert (again["generation"].known, again["generation"].added) == (3, 0)
    for one, other in zip(first, await manager.generation.entries(-1), strict=True):
        assert (one.key, one.touches) == (other.key, other.touches)
        assert other.priority == pytest.approx(one.priority)


async def test_an_export_is_made_while_another_process_writes(
    manager: CacheManager, tmp_path: Path
) -> None:
    body = """
async with opened(directory) as manager:
    n = 0
    while True:
        await manager.generation.put(key_of(n), completion(f"answer {n}"))
        n += 1
        if n == 10:
            say("writing")
"""
    path = tmp_path / "export.db"
    with Process(manager.directory, body) as other:
        assert other.hear() == "writing"
        counts = [(await manager.export_entries(path)).generation for _ in range(3)]
        other.kill()
    assert counts[0] >= 10
    async with opened(tmp_path / "third") as third:
        assert (await third.import_entries(path))["generation"].added == counts[-1]


async def test_an_import_is_seen_by_another_process(export: Path, manager: CacheManager) -> None:
    body = f"""
async with opened(directory) as manager:
    await manager.import_entries({str(export)!r})
    say("imported")
"""
    assert await manager.generation.get(key_of(1)) is None
    with Process(manager.directory, body) as other:
        assert other.hear() == "imported"
        assert other.finish() == 0
    found = await manager.generation.get(key_of(1))
    assert found is not None
    assert found.text == "answer 1"


# -- frecency and budgets --------------------------------------------------------------------------


async def touches_of(manager: CacheManager) -> dict[str, int]:
    return {entry.key: entry.touches for entry in await manager.generation.entries(-1)}


@pytest.mark.parametrize("policy", ["tide", "lru", "lfu"])
async def test_the_better_frecency_is_kept(policy: str, tmp_path: Path) -> None:
    path = tmp_path / "export.db"
    async with opened(tmp_path / "other", cache_policy=policy) as other:
        await fill(other, range(2))
        for _ in range(4):
            await other.generation.get(key_of(0))
        await flushed(other)
        await other.export_entries(path)
    async with opened(tmp_path / "caches", cache_policy=policy) as manager:
        await fill(manager, range(2))
        for _ in range(7):
            await manager.generation.get(key_of(1))
        await flushed(manager)
        before = {entry.key: entry for entry in await manager.generation.entries(-1)}
        merged = (await manager.import_entries(path))["generation"]
        after = {entry.key: entry for entry in await manager.generation.entries(-1)}
    assert (merged.known, merged.added) == (2, 0)
    assert [after[key_of(n)].touches for n in range(2)] == [5, 8]
    assert after[key_of(0)].priority > before[key_of(0)].priority
    assert after[key_of(1)].priority == before[key_of(1)].priority


@pytest.mark.parametrize("policy", ["tide", "lru", "lfu"])
async def test_the_budgets_hold_and_the_best_of_both_stay(policy: str, tmp_path: Path) -> None:
    path = tmp_path / "export.db"
    async with opened(tmp_path / "other") as other:
        await fill(other, range(10))
        for n in (0, 1):
            for _ in range(9):
                await other.generation.get(key_of(n))
        await flushed(other)
        await other.export_entries(path)
    changes = {"generation_cache_capacity": 4, "cache_policy": policy}
    async with opened(tmp_path / "caches", **changes) as manager:
        await fill(manager, range(20, 24))
        for _ in range(9):
            await manager.generation.get(key_of(20))
        await flushed(manager)
        merged = (await manager.import_entries(path))["generation"]
        stats = await manager.generation.statistics()
        touches = await touches_of(manager)
        for key in touches:
            assert await manager.generation.get(key) is not None
    assert merged.entries == merged.added + merged.declined == 10
    assert stats["size"] == len(touches) == 4
    assert merged.evicted == 4 - sum(key in touches for key in map(key_of, range(20, 24)))
    if policy != "lru":
        assert {key_of(0), key_of(1), key_of(20)} <= set(touches)
    with closing(sqlite3.connect(tmp_path / "caches" / "generation_cache.db")) as connection:
        assert connection.execute("SELECT count(*) FROM answer").fetchone() == (4,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_what_went_for_an_import_is_gone_from_memory_too(
    tmp_path: Path, export: Path
) -> None:
    async with opened(tmp_path / "caches", generation_cache_capacity=3) as manager:
        await fill(manager, range(20, 23), cost_s=0.001)
        merged = (await manager.import_entries(export))["generation"]
        assert (merged.added, merged.evicted) == (3, 3)
        assert not any(manager.generation.recall_key(key_of(n)) for n in range(20, 23))


async def test_an_entry_that_is_larger_than_the_whole_budget_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "export.db"
    async with opened(tmp_path / "other") as other:
        await other.generation.put(
            key_of("large"), completion("x" * 60_000, chunks=("x" * 60_000,))
        )
        await fill(other, range(2))
        await other.export_entries(path)
    async with opened(tmp_path / "caches", generation_cache_max_size_mb=0.05) as manager:
        merged = (await manager.import_entries(path))["generation"]
        assert (merged.entries, merged.oversized, merged.added) == (3, 1, 2)
        assert not await manager.generation.contains(key_of("large"))


async def test_an_entry_that_was_evicted_here_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "export.db"
    async with opened(tmp_path / "caches", generation_cache_capacity=2) as manager:
        await fill(manager, range(2))
        await manager.export_entries(path)
        await fill(manager, range(2, 4), cost_s=5.0)
        assert (await manager.generation.statistics())["ghosts"] == 2
        await manager.generation.clear()
        await fill(manager, range(2), cost_s=0.001)
        await fill(manager, range(2, 4), cost_s=5.0)
        await manager.generation.delete(key_of(2))
        await manager.generation.delete(key_of(3))
        ghosts = (await manager.generation.statistics())["ghosts"]
        merged = (await manager.import_entries(path))["generation"]
        assert merged.added == 2
        assert ghosts == 2
        assert (await manager.generation.statistics())["ghosts"] == 0


async def test_answers_of_any_size_are_written_as_they_come(
    manager: CacheManager, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_merging, "GATHERED_BYTES", 0)
    await manager.import_entries(export)
    for n in range(3):
        found = await manager.generation.get(key_of(n))
        assert found is not None
        assert found.text == f"answer {n}"


@given(
    touches=st.integers(1, 1000),
    cost_s=st.floats(0, 1000),
    level=st.floats(0, 1e6),
    size_bytes=st.integers(1, 10_000),
)
def test_standing_is_what_it_was_in_a_cache_of_another_size(
    touches: int, cost_s: float, level: float, size_bytes: int
) -> None:
    tide, here, there = POLICIES["tide"], Budget(10, 10_000), Budget(500, 10_000_000)
    row = Row("k", size_bytes, cost_s)
    tide.touch(State(level=level), row, here, touches)
    above = standing(tide, level, row, here)
    assert 0 <= above <= touches
    # Doubles at a high level do not know a small standing any more.
    if tide.value(row, here) > 1e-6 * (level + 1):  # type: ignore[attr-defined]  # tide has one
        assert above == pytest.approx(touches, rel=1e-3)
    there_row = Row("k", size_bytes, cost_s)
    entry = Incoming(
        key="k",
        size_bytes=size_bytes,
        cost_s=cost_s,
        touches=touches,
        standing=above,
        created_s=0.0,
        used_s=0.0,
    )
    _merging._take(tide, State(level=3.0), there, there_row, entry)
    assert there_row.touches == touches
    assert there_row.priority >= 3.0


# -- files that are refused ------------------------------------------------------------------------


async def test_a_damaged_answer_is_refused(manager: CacheManager, export: Path) -> None:
    change(export, "UPDATE generation SET text = x'00' WHERE key = ?", parameters=(key_of(1),))
    await refused(manager, export, "checksum")


async def test_a_damaged_vector_loses_the_completions_nothing(
    manager: CacheManager, export: Path
) -> None:
    change(export, "UPDATE embedding SET vector = x'0000'")
    await refused(manager, export, "checksum")


def resealed(path: Path, column: str, value: object) -> None:
    """A row that is changed by somebody who knows how to make the checksum hold."""
    codec, kind = (
        (EmbeddingCodec, "embedding") if column == "vector" else (CompletionCodec, "generation")
    )
    names = ", ".join(name for name, _ in codec.columns)
    change(path, f"UPDATE {kind} SET {column} = ?", parameters=(value,))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for key, cost_s, *values in connection.execute(
            f"SELECT key, cost_s, {names} FROM {kind}"
        ).fetchall():
            connection.execute(
                f"UPDATE {kind} SET crc = ? WHERE key = ?", (checksum(key, cost_s, values), key)
            )


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("text", b"\xff"),
        ("chunks", b""),
        ("chunks", b"\x04\xff\xff\xff\xff"),
        ("chunks", b"\x01\x01"),
        ("logprobs", b"\xff" * 8),
        ("finish_reason", "because"),
        ("seed", "no number"),
        ("model", b"no text"),
        ("vector", b""),
        ("vector", b"\x00\x00\xc0\x7f"),
    ],
)
async def test_an_answer_that_no_codec_wrote_is_refused(
    column: str, value: object, manager: CacheManager, export: Path
) -> None:
    resealed(export, column, value)
    await refused(manager, export, "cannot be decoded|is no answer")


@pytest.mark.parametrize(
    ("assignment", "match"),
    [
        ("touches = 0", "cannot be"),
        (f"touches = {MAX_TOUCHES + 1}", "cannot be"),
        ("cost_s = -1.0", "cannot be"),
        ("cost_s = 1e300", "cannot be"),
        ("standing = 1e999", "cannot be"),
        ("used_s = -1e999", "cannot be"),
        ("key = '../../etc'", "is no key"),
        ("key = x'00'", "is no key"),
        ("touches = 'many'", "cannot be"),
        ("cost_s = 'much'", "cannot be"),
    ],
)
async def test_numbers_that_cannot_be_are_refused(
    assignment: str, match: str, manager: CacheManager, export: Path
) -> None:
    change(export, f"UPDATE generation SET {assignment} WHERE key = '{key_of(0)}'")
    await refused(manager, export, match)


@pytest.mark.parametrize(
    "statements",
    [
        ("CREATE TRIGGER t AFTER INSERT ON generation BEGIN DELETE FROM generation; END",),
        ("CREATE VIEW v AS SELECT * FROM generation",),
        ("CREATE INDEX i ON generation (length(text))",),
        ("ALTER TABLE generation RENAME TO g", "CREATE VIEW generation AS SELECT * FROM g"),
        ("DROP TABLE embedding",),
        ("ALTER TABLE generation ADD COLUMN more TEXT",),
        (
            "DROP TABLE embedding",
            "CREATE VIRTUAL TABLE embedding USING fts5 (key)",
        ),
    ],
)
async def test_a_schema_with_anything_else_in_it_is_refused(
    statements: tuple[str, ...], manager: CacheManager, export: Path
) -> None:
    change(export, *statements)
    await refused(manager, export, "its tables are not those of an export")


async def test_a_newer_version_is_refused_as_such(manager: CacheManager, export: Path) -> None:
    change(export, f"PRAGMA user_version = {EXPORT_VERSION + 1}")
    with pytest.raises(StoreVersionError, match="upgrade asteady"):
        await manager.import_entries(export)
    await refused(manager, export, "upgrade asteady")


async def test_other_files_are_refused(manager: CacheManager, export: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no database" * 1000)
    await refused(manager, text, "not a database")
    (tmp_path / "empty").write_bytes(b"")
    await refused(manager, tmp_path / "empty", "is no export")
    await refused(manager, tmp_path / "missing", "No such file")
    await refused(manager, tmp_path, "is no file")
    os.mkfifo(tmp_path / "pipe")
    await refused(manager, tmp_path / "pipe", "is no file")
    await refused(manager, tmp_path / "other" / "generation_cache.db", "database of a cache itself")
    await refused(manager, export, "more than the 100 allowed", max_file_bytes=100)


async def test_a_file_cut_short_or_scribbled_upon_is_refused_or_whole(
    manager: CacheManager, export: Path
) -> None:
    whole = export.read_bytes()
    export.write_bytes(whole[:-4096])
    await refused(manager, export, "is not imported")
    for at in range(0, len(whole), 1000):
        export.write_bytes(whole[:at] + b"\xa5" * 24 + whole[at + 24 :])
        try:
            await manager.import_entries(export)
        except StoreError:
            continue
        # It hit nothing that counts: everything that came in is what was written.
        for n in range(1, 3):
            found = await manager.generation.get(key_of(n))
            assert found is not None
            assert found.text == f"answer {n}"
        await manager.generation.clear()
    assert not list(manager.directory.glob("*damaged*"))


async def test_a_page_that_belongs_nowhere_is_refused(manager: CacheManager, export: Path) -> None:
    # Every row can be read; only the count of free pages in the header is wrong.
    whole = export.read_bytes()
    export.write_bytes(whole[:36] + (5).to_bytes(4, "big") + whole[40:])
    await refused(manager, export, "it is damaged")


async def test_a_journal_beside_the_file_is_not_played(
    manager: CacheManager, export: Path, tmp_path: Path
) -> None:
    file = tmp_path / "offered" / "export.db"
    file.parent.mkdir()
    with closing(sqlite3.connect(export, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("DELETE FROM generation")
        for suffix in ("", "-wal"):
            Path(f"{file}{suffix}").write_bytes(Path(f"{export}{suffix}").read_bytes())
    assert (await manager.import_entries(file))["generation"].added == 3
    assert sorted(child.name for child in file.parent.iterdir()) == ["export.db", "export.db-wal"]


async def test_the_file_is_let_go_of_and_read_to_its_end(
    manager: CacheManager, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever has stopped waiting for the check does not cut the merge short.
    monkeypatch.setattr(_import_file, "STOP_STEPS", 1)
    with monkeypatch.context() as patched:
        patched.setattr(_import_file.ExportFile, "close", closed := Mock())
        assert (await manager.import_entries(export))["generation"].added == 3
    assert closed.call_count == 1


async def test_too_many_entries_are_refused(
    manager: CacheManager, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_import_file, "MAX_ENTRIES", 2)
    await refused(manager, export, "more than 2 entries")


async def test_a_value_that_is_too_large_is_refused_unread(
    manager: CacheManager, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(export, "UPDATE generation SET text = zeroblob(300000)")
    monkeypatch.setattr(_import_file, "MAX_ROW_BYTES", 100_000)
    await refused(manager, export, "too big")


async def test_a_file_that_changes_between_check_and_merge_changes_nothing(
    manager: CacheManager, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge = _transfer._merge

    async def changed(*args: Any) -> Any:
        args[1].close()
        return await merge(*args)

    monkeypatch.setattr(_transfer, "_merge", changed)
    # Together with somebody else's write, which is not to fail with it.
    putting = asyncio.ensure_future(manager.generation.put(key_of("beside"), completion()))
    with pytest.raises(StoreError, match=r"export\.db changed while it was read") as raised:
        await manager.import_entries(export)
    assert "cannot be written" not in str(raised.value)
    assert await putting
    assert await manager.generation.keys() == [key_of("beside")]
    assert await manager.embedding.keys() == []


async def test_a_cache_that_cannot_be_written_says_so(
    manager: CacheManager, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await manager.import_entries(export)
    await manager.generation.clear()

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("asteady.cache._transaction.merge", full)
    with pytest.raises(StoreError, match="disk is full"):
        await manager.import_entries(export)
    assert await manager.generation.keys() == []


# -- exports ---------------------------------------------------------------------------------------


async def test_a_damaged_entry_is_left_out_of_an_export(
    manager: CacheManager, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await fill(manager, range(4))
    database = manager.directory / "generation_cache.db"
    change(database, "UPDATE answer SET text = x'00' WHERE slot = 1")
    change(database, "DELETE FROM answer WHERE slot = 2")
    change(database, "UPDATE answer SET model = CAST(x'ff' AS TEXT) WHERE slot = 3")
    path = tmp_path / "export.db"
    assert (await manager.export_entries(path)).generation == 1
    assert caplog.text.count("is not exported") == 3
    async with opened(tmp_path / "third") as third:
        assert (await third.import_entries(path))["generation"].added == 1


async def test_an_older_export_is_replaced_and_nothing_else(
    manager: CacheManager, export: Path, tmp_path: Path
) -> None:
    await fill(manager, range(7))
    assert (await manager.export_entries(export)).generation == 7
    precious = tmp_path / "thesis.txt"
    precious.write_text("years")
    with pytest.raises(StoreError, match="is not overwritten"):
        await manager.export_entries(precious)
    with pytest.raises(StoreError, match="is not overwritten"):
        await manager.export_entries(manager.directory / "generation_cache.db")
    assert precious.read_text() == "years"
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "other"):
        with pytest.raises(StoreError, match="is not overwritten"):
            await manager.export_entries(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        await manager.export_entries(tmp_path / "missing" / "export.db")


async def test_a_database_that_cannot_be_read_leaves_no_file(
    manager: CacheManager, tmp_path: Path
) -> None:
    await fill(manager, range(3))
    (manager.directory / "embedding_cache.db").unlink()
    with pytest.raises(StoreError, match=r"embedding_cache\.db cannot be read"):
        await manager.export_entries(tmp_path / "export.db")
    assert [child.name for child in tmp_path.iterdir()] == ["caches"]


async def test_a_disabled_or_closed_cache_moves_nothing(tmp_path: Path, export: Path) -> None:
    async with opened(tmp_path / "caches", disable_cache=True) as manager:
        for move in (manager.export_entries, manager.import_entries):
            with pytest.raises(StoreError, match="disabled"):
                await move(export)
    unopened = CacheManager(settings(tmp_path / "caches"))
    with pytest.raises(SessionNotOpenError):
        await unopened.export_entries(tmp_path / "new.db")


# -- cancelling ------------------------------------------------------------------------------------


async def cancelled(call: Callable[[], Any], started: asyncio.Event) -> None:
    task = asyncio.ensure_future(call())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancelled_export_leaves_no_file(
    manager: CacheManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    await fill(manager, range(3))
    loop, started, ended = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    go_on = threading.Event()
    write = _export_file.write_export

    def held(*arguments: Any) -> Any:
        loop.call_soon_threadsafe(started.set)
        assert go_on.wait(30)
        try:
            return write(*arguments)
        finally:
            loop.call_soon_threadsafe(ended.set)

    monkeypatch.setattr(_transfer, "write_export", held)
    await cancelled(lambda: manager.export_entries(tmp_path / "export.db"), started)
    go_on.set()
    await ended.wait()
    assert [child.name for child in tmp_path.iterdir()] == ["caches"]


async def test_an_import_that_is_cancelled_while_it_merges_is_done_all_the_same(
    manager: CacheManager, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge, started, merging = _transfer._merge, asyncio.Event(), asyncio.Event()

    async def told(*args: Any) -> Any:
        started.set()
        try:
            return await merge(*args)
        finally:
            merging.set()

    monkeypatch.setattr(_transfer, "_merge", told)
    await cancelled(lambda: manager.import_entries(export), started)
    await merging.wait()
    assert len(await manager.generation.keys()) == 3
    assert len(await manager.embedding.keys()) == 1
