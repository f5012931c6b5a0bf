"""Files that cannot be imported are refused, and change nothing."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from asteady._base.errors import StoreError, StoreVersionError
from asteady._base.requests import EmbedRequest
from asteady._cache import transfer as _transfer
from asteady._cache.manager import CacheManager
from asteady._cache.store.codec import CompletionCodec, EmbeddingCodec, checksum
from asteady._cache.transfer import EXPORT_VERSION, MAX_TOUCHES
from tests.cache.helpers import change, completion, embedding, key_of, opened

pytestmark = pytest.mark.anyio


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


async def test_a_damaged_answer_is_refused(manager: CacheManager, export: Path) -> None:
    change(export, "UPDATE generation SET text = x'00' WHERE key = ?", parameters=(key_of(1),))
    await refused(manager, export, "checksum")


async def test_a_damaged_vector_loses_the_completions_nothing(
    manager: CacheManager, export: Path
) -> None:
    change(export, "UPDATE embedding SET vector = x'0000'")
    await refused(manager, export, "checksum")


def resealed(path: Path, column: str, value: object, key: str | None = None) -> None:
    """Change the row of this key, or all, and give them valid checksums."""
    codec, kind = (
        (EmbeddingCodec, "embedding") if column == "vector" else (CompletionCodec, "generation")
    )
    names = ", ".join(name for name, _ in codec.columns)
    change(
        path,
        f"UPDATE {kind} SET {column} = ? WHERE key = coalesce(?, key)",
        parameters=(value, key),
    )
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
    await refused(manager, export, "is not an answer")


@pytest.mark.parametrize(
    ("assignment", "match"),
    [
        ("touches = 0", "are not possible"),
        (f"touches = {MAX_TOUCHES + 1}", "are not possible"),
        ("cost_s = -1.0", "are not possible"),
        ("cost_s = 1e300", "are not possible"),
        ("relative_priority = 1e999", "are not possible"),
        ("used_s = -1e999", "are not possible"),
        ("key = '../../etc'", "is not a key"),
        ("key = x'00'", "is not a key"),
        ("touches = 'many'", "are not possible"),
        ("cost_s = 'much'", "are not possible"),
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


async def test_an_older_version_is_refused_as_such(manager: CacheManager, export: Path) -> None:
    change(export, f"PRAGMA user_version = {EXPORT_VERSION - 1}")
    with pytest.raises(StoreVersionError, match="export it again"):
        await manager.import_entries(export)
    await refused(manager, export, f"reads version {EXPORT_VERSION}")


async def test_other_files_are_refused(manager: CacheManager, export: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no database" * 1000)
    await refused(manager, text, "not a database")
    (tmp_path / "empty").write_bytes(b"")
    await refused(manager, tmp_path / "empty", "is not an export")
    await refused(manager, tmp_path / "missing", "No such file")
    await refused(manager, tmp_path, "is not a file")
    os.mkfifo(tmp_path / "pipe")
    await refused(manager, tmp_path / "pipe", "is not a file")
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
    monkeypatch.setattr(_transfer, "STOP_STEPS", 1)
    close = Mock(side_effect=_transfer.ExportFile.close)
    monkeypatch.setattr(_transfer.ExportFile, "close", lambda file: close(file))
    assert (await manager.import_entries(export))["generation"].added == 3
    assert close.call_count == 1


async def test_too_many_entries_are_refused(
    manager: CacheManager, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_transfer, "MAX_ENTRIES", 2)
    await refused(manager, export, "more than 2 entries")


async def test_a_value_that_is_too_large_is_refused_unread(
    manager: CacheManager, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(export, "UPDATE generation SET text = zeroblob(300000)")
    monkeypatch.setattr(_transfer, "MAX_ROW_BYTES", 100_000)
    await refused(manager, export, "too big")


async def test_a_file_that_changes_between_check_and_merge_changes_nothing(
    manager: CacheManager, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge = _transfer._merge

    async def changed(*args: Any) -> Any:
        args[1].close()
        return await merge(*args)

    monkeypatch.setattr(_transfer, "_merge", changed)
    # In one commit with another write, which must not fail too.
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

    monkeypatch.setattr("asteady._cache.store.transaction._Transaction.merge", full)
    with pytest.raises(StoreError, match="disk is full"):
        await manager.import_entries(export)
    assert await manager.generation.keys() == []


MEBIBYTE = 2**20
AMPLIFIED = {
    "chunks without text": ("chunks", b"\x01" + bytes(2 * MEBIBYTE)),
    "chunks without text, counted in four bytes": ("chunks", b"\x04" + bytes(2 * MEBIBYTE)),
    "tokens without text": ("logprobs", (2**16).to_bytes(4, "little") + bytes(2 * MEBIBYTE)),
    "likely tokens": (
        "logprobs",
        b"\x01\x00\x00\x00\x00\x00\x01\x00" + b"\x00\x00\x01\x00" + bytes(2 * MEBIBYTE),
    ),
}


@pytest.mark.parametrize("name", AMPLIFIED)
async def test_a_value_that_would_grow_when_it_is_decoded_is_refused_undecoded(
    name: str, manager: CacheManager, export: Path
) -> None:
    column, value = AMPLIFIED[name]
    resealed(export, column, value)
    size_bytes = export.stat().st_size
    tracemalloc.start()
    try:
        await refused(manager, export, "is not an answer")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2 * size_bytes


async def test_a_request_of_many_lists_is_left_out_unread(
    manager: CacheManager, export: Path
) -> None:
    change(export, "UPDATE generation SET request = ?", parameters=("[" + "[]," * 700_000 + "[]]",))
    size_bytes = export.stat().st_size
    tracemalloc.start()
    try:
        assert (await manager.import_entries(export))["generation"].added == 3
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2 * size_bytes
    assert await manager.generation.request(key_of(0)) is None


@pytest.mark.parametrize("numbers", [[1.0, 1.0, 1.0], [5.4, 7.2], [0.0, 0.0]])
async def test_a_vector_of_another_norm_is_refused(
    numbers: list[float], manager: CacheManager, export: Path
) -> None:
    resealed(export, "vector", np.array(numbers, "<f4").tobytes())
    await refused(manager, export, "L2 norm .* instead of 1")


async def embedded(directory: Path, path: Path, dimensions: dict[str, int | None]) -> None:
    """An export of vectors by text, with the dimensions requested, which may be None for 3."""
    async with opened(directory) as other:
        for text, wanted in dimensions.items():
            request = EmbedRequest.of(text, dimensions=wanted)
            vector = embedding(*[0.0] * ((wanted or 3) - 1), 1.0)
            assert await other.embedding.put(
                request.key(vector.fingerprint), vector, request=request
            )
        await other.export_entries(path)


@pytest.mark.parametrize(
    ("dimensions", "text", "length"),
    [
        ({"asked": 2}, "asked", 3),
        ({"asked": 2, "whole": None}, "whole", 4),
        ({"asked": 2, "whole": None}, "whole", 2),
        ({"whole": None, "other": None}, "other", 2),
        ({"unknown": 2, "whole": None}, "unknown", 4),
    ],
)
async def test_a_vector_of_other_dimensions_is_refused(
    dimensions: dict[str, int | None],
    text: str,
    length: int,
    manager: CacheManager,
    tmp_path: Path,
) -> None:
    path = tmp_path / "vectors.db"
    await embedded(tmp_path / "a", path, dimensions)
    key = EmbedRequest.of(text, dimensions=dimensions[text]).key("e" * 64)
    if text == "unknown":
        change(path, "UPDATE embedding SET request = NULL WHERE key = ?", parameters=(key,))
    # The file's other whole vectors, or else those of the cache, say how long they are.
    await embedded(tmp_path / "b", tmp_path / "ours.db", {"ours": None})
    if len(dimensions) == 2 and "asked" in dimensions:
        await manager.import_entries(tmp_path / "ours.db")
        await manager.generation.clear()
    resealed(path, "vector", np.eye(1, length, dtype="<f4").tobytes(), key)
    with pytest.raises(StoreError, match="dimensions"):
        await manager.import_entries(path)
    assert key not in await manager.embedding.keys()


async def test_vectors_of_the_dimensions_requested_come_in(
    manager: CacheManager, tmp_path: Path
) -> None:
    path = tmp_path / "vectors.db"
    await embedded(tmp_path / "a", path, {"asked": 2, "whole": None, "all": 3})
    assert (await manager.import_entries(path))["embedding"].added == 3
    assert (await manager.import_entries(path))["embedding"].known == 3
