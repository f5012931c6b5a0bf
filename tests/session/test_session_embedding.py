"""Vectors of a session, one or many, on a fake engine."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from asteady import InvalidRequestError, Session
from asteady._cache.store.codec import EmbeddingCodec, checksum
from asteady.testing import FakeEngine

pytestmark = pytest.mark.anyio


async def test_a_vector_is_a_read_only_unit_vector(session: Session) -> None:
    vector = await session.embed("async cache")
    assert vector.shape == (8,)
    assert vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    with pytest.raises(ValueError, match="read-only"):
        vector[0] = 0


async def test_each_text_is_cached_and_coalesced_on_its_own(
    session: Session, engine: FakeEngine
) -> None:
    alone = await session.embed("b")
    matrix = await session.embed(["a", "b", "a", "c"])
    assert matrix.shape == (4, 8)
    assert (matrix[1] == alone).all()
    assert (matrix[0] == matrix[2]).all()
    assert len(engine.computed) == 3
    with pytest.raises(ValueError, match="read-only"):
        matrix[0, 0] = 0


async def test_many_texts_keep_their_order_and_fit_a_small_queue(tmp_path: Path) -> None:
    texts = [f"text {n}" for n in range(300)]
    async with Session(engine=FakeEngine(), workers=2) as session:
        matrix = await session.embed(texts)
        for index in (0, 150, 299):
            assert (matrix[index] == await session.embed(texts[index])).all()


async def test_a_bad_text_among_many_is_named(session: Session) -> None:
    with pytest.raises(InvalidRequestError, match="text=5") as caught:
        await session.embed(["a", 5])  # type: ignore[list-item]  # what is tested
    assert "(at text[1])" in caught.value.__notes__
    with pytest.raises(InvalidRequestError, match="at least one text"):
        await session.embed([])
    with pytest.raises(InvalidRequestError, match="text=b'abc'"):
        await session.embed(b"abc")  # type: ignore[arg-type]  # what is tested
    with pytest.raises(InvalidRequestError, match="text="):
        await session.embed({"a": 1})  # type: ignore[arg-type]  # what is tested
    with pytest.raises(InvalidRequestError, match="text=5"):
        await session.embed(5)  # type: ignore[arg-type]  # what is tested


async def test_embeddings_outlive_the_session(engine: FakeEngine) -> None:
    async with Session(engine=engine) as session:
        first = await session.embedding("hi")
    async with Session(engine=FakeEngine()) as session:
        second = await session.embedding("hi")
    assert second.cached
    assert (first.vector == second.vector).all()
    assert second.tokens == first.tokens == 1


def cut(directory: Path, numbers: list[float]) -> None:
    """Give all stored vectors other numbers, with valid checksums."""
    names = ", ".join(name for name, _ in EmbeddingCodec.columns)
    with closing(sqlite3.connect(directory / "embedding_cache.db", isolation_level=None)) as db:
        db.execute("UPDATE answer SET vector = ?", (np.array(numbers, "<f4").tobytes(),))
        for slot, key, cost_s, *values in db.execute(
            f"SELECT slot, key, cost_s, {names} FROM answer JOIN entry USING (slot)"
        ).fetchall():
            crc = checksum(key, cost_s, values)
            db.execute("UPDATE answer SET crc = ? WHERE slot = ?", (crc, slot))


@pytest.mark.parametrize(("wanted", "loaded"), [(None, False), (None, True), (5, False)])
async def test_a_stored_vector_with_other_dimensions_than_the_model_s_is_computed_anew(
    wanted: int | None, loaded: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Session(cache_dir=tmp_path) as session:
        right = await session.embed("text", dimensions=wanted)
    cut(tmp_path, [0.6, 0.0, 0.8])
    for damaged in (1, 0):
        async with Session(cache_dir=tmp_path) as session:
            if loaded:
                await session.load("embedding")
            assert (await session.embed("text", dimensions=wanted) == right).all()
            counters = session.cache.embedding.counters
            assert (counters.damaged, counters.misses) == (damaged, damaged)
    assert caplog.text.count("is of another size") == 1
