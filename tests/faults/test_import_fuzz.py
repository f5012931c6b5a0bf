"""Rows and files made to do harm: refused or harmless, and what is served is an answer."""

from __future__ import annotations

import asyncio
import functools
import math
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings, strategies as st

from asteady._base.errors import StoreError
from asteady._base.requests import Completion, EmbedRequest, GenerateRequest, TokenLogprob
from asteady._cache.manager import CacheManager
from asteady._cache.store.codec import Codec, CompletionCodec, EmbeddingCodec, checksum
from tests.cache.helpers import completion, embedding, opened
from tests.faults.campaign import rounds

CODECS: dict[str, Codec[Any]] = {"generation": CompletionCodec(), "embedding": EmbeddingCodec()}
TEXTS = ("one", "twö", "three words here")

fuzz = settings(
    max_examples=rounds(50, 2000),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
numbers = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([-1, 0, 1, 2**31, 2**32])
reals = st.floats() | st.sampled_from([math.nan, math.inf, 0.0, -1.0, 1e300])
packed = st.builds(
    lambda head, body: head + body,
    st.sampled_from([b"", b"\x00", b"\x01", b"\x04", b"\x01\x00\x00\x00", b"\xff" * 4]),
    st.binary(max_size=64) | st.integers(0, 3000).map(bytes),
)
vectors = st.lists(st.floats(width=32), max_size=9).map(lambda items: np.array(items, "<f4"))
units = st.integers(1, 9).map(lambda n: np.full(n, 1 / math.sqrt(n), "<f4"))
values = st.one_of(
    st.none(),
    numbers,
    reals,
    st.text(max_size=20),
    packed,
    (vectors | units).map(np.ndarray.tobytes),
)
columns = st.sampled_from(
    [(kind, name) for kind, codec in CODECS.items() for name, _ in codec.columns]
)
rows = st.lists(st.tuples(columns, values), min_size=1, max_size=3)
scribbles = st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=40)), max_size=4)


@functools.cache
def original() -> tuple[bytes, dict[str, bytes]]:
    """An export, and the databases that it is of."""

    async def make(directory: Path) -> tuple[bytes, dict[str, bytes]]:
        async with opened(directory) as manager:
            item = TokenLogprob(token_id=7, token=b"o", logprob=-0.5, top=((7, b"o", -0.5),))
            for text in TEXTS:
                prompt, vector = GenerateRequest.of(text), EmbedRequest.of(text)
                await manager.generation.put(
                    prompt.key("f" * 64), completion(text, logprobs=(item,)), request=prompt
                )
                await manager.embedding.put(
                    vector.key("e" * 64), embedding(0.6, 0.0, 0.8), request=vector
                )
            await manager.export_entries(directory / "export.db")
        files = {kind: (directory / f"{kind}_cache.db").read_bytes() for kind in CODECS}
        return (directory / "export.db").read_bytes(), files

    with tempfile.TemporaryDirectory() as directory:
        return asyncio.run(make(Path(directory)))


def tamper(path: Path, table: str, kind: str, name: str, value: Any) -> None:
    """Change one row, and give it the checksum that it would have."""
    names = ", ".join(name for name, _ in CODECS[kind].columns)
    keyed = f"{table} JOIN entry USING (slot)" if table == "answer" else table
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        place = "slot" if table == "answer" else "key"
        where = f"WHERE {place} = (SELECT min({place}) FROM {table})"
        try:
            connection.execute(f"UPDATE {table} SET {name} = ? {where}", (value,))
        except sqlite3.IntegrityError:  # NOT NULL
            return
        key, cost_s, *stored = connection.execute(
            f"SELECT key, cost_s, {names} FROM {keyed} {where}"
        ).fetchone()
        crc = checksum(key, cost_s, stored)
        connection.execute(f"UPDATE {table} SET crc = ? {where}", (crc,))


async def check_all(manager: CacheManager) -> int:
    """Whatever is served is an answer; returns the number of those."""
    served = 0
    for key in await manager.generation.keys():
        found = await manager.generation.get(key)
        if found is not None:
            served += 1
            check_completion(found)
    for key in await manager.embedding.keys():
        vector = await manager.embedding.get(key)
        if vector is not None:
            served += 1
            assert vector.vector.dtype == np.float32
            assert math.isclose(np.linalg.norm(vector.vector.astype(float)), 1.0, abs_tol=1e-3)
            assert type(vector.tokens) is int
            assert vector.tokens >= 0
    return served


def check_completion(answer: Completion) -> None:
    assert "".join(answer.chunks) == answer.text
    assert all(answer.chunks)
    assert len(answer.chunks) <= answer.completion_tokens + 1
    assert answer.finish_reason in ("stop", "length")
    assert type(answer.seed) is int
    for item in answer.logprobs or ():
        assert math.isfinite(item.logprob)
        assert all(math.isfinite(value) for _, _, value in item.top)


def attempt(directory: Path, offered: bytes) -> bool:
    """Import a file into a cache with one entry; True if it was taken in."""

    async def importing() -> bool:
        async with opened(directory / "caches") as manager:
            ours = completion("ours")
            await manager.generation.put("ours", ours)
            (directory / "offered.db").write_bytes(offered)
            try:
                await manager.import_entries(directory / "offered.db")
                taken = True
            except StoreError:
                taken = False
                assert await manager.generation.keys() == ["ours"]
                assert await manager.embedding.keys() == []
            await check_all(manager)
            found = await manager.generation.get("ours")
            assert found is not None
            assert found.text == "ours"
            assert not [*manager.directory.glob("*damaged*")]
            return taken

    return asyncio.run(importing())


def test_rows_that_an_import_offers(tally: Callable[[str, int], None]) -> None:
    @fuzz
    @given(rows)
    def offer(changes: list[tuple[tuple[str, str], Any]]) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "export.db")
            path.write_bytes(original()[0])
            for (kind, name), value in changes:
                tamper(path, kind, kind, name, value)
            taken = attempt(Path(directory), path.read_bytes())
        tally("files", 1)
        tally("refused", not taken)

    offer()


def test_damage_anywhere_in_a_file_to_import(tally: Callable[[str, int], None]) -> None:
    @fuzz
    @given(scribbles, st.floats(0.5, 1))
    def offer(damage: list[tuple[float, bytes]], length: float) -> None:
        offered = bytearray(original()[0])
        for place, scribble in damage:
            at = int(place * len(offered))
            offered[at : at + len(scribble)] = scribble
        del offered[int(length * len(offered)) :]
        with tempfile.TemporaryDirectory() as directory:
            taken = attempt(Path(directory), bytes(offered))
        tally("files", 1)
        tally("refused", not taken)

    offer()


def test_rows_that_were_changed_in_the_database(tally: Callable[[str, int], None]) -> None:
    async def read(directory: Path) -> int:
        async with opened(directory) as manager:
            return await check_all(manager)

    @fuzz
    @given(rows)
    def change(changes: list[tuple[tuple[str, str], Any]]) -> None:
        with tempfile.TemporaryDirectory() as directory:
            for kind, data in original()[1].items():
                Path(directory, f"{kind}_cache.db").write_bytes(data)
            for (kind, name), value in changes:
                tamper(Path(directory, f"{kind}_cache.db"), "answer", kind, name, value)
            served = asyncio.run(read(Path(directory)))
        assert served >= 2 * len(TEXTS) - 2
        tally("databases", 1)
        tally("damaged rows left out", 2 * len(TEXTS) - served)

    change()
