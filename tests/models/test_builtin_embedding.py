"""The built-in embedding model does what its card says, on examples that anybody can check."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import asteady
from asteady import Session
from asteady._engine.models.gguf import read_header

FILE = Path(asteady.__file__).parent / "models" / "embed.gguf"

# Each of these is nearer to its neighbour in the row than to anything in another row.
RELATED = [
    ("The cat is asleep on the sofa.", "A kitten sleeps on the couch."),
    ("Stock prices fell after the report.", "Shares lost value on the market."),
    ("How do I sort a list in Python?", "sorted(iterable, key, reverse)"),
    ("It will rain all day tomorrow.", "The forecast says wet weather."),
    ("She plays the violin in an orchestra.", "He is learning a song on the piano."),
    ("Return the current working directory.", "getcwd()"),
]


def test_the_file_is_what_the_card_says() -> None:
    header = read_header(FILE)
    assert header.kind == "embedding"
    assert (header.architecture, header.pooling, header.causal) == ("bert", "mean", False)
    assert header.context_length == 512
    assert FILE.stat().st_size <= 8_000_000


@pytest.mark.anyio
async def test_related_texts_are_nearest() -> None:
    texts = [text for row in RELATED for text in row]
    async with Session() as session:
        vectors = await session.embed(texts)
    assert vectors.shape == (len(texts), 256)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    cosines = vectors @ vectors.T - 2 * np.eye(len(texts), dtype=np.float32)
    nearest = cosines.argmax(axis=1)
    assert [int(index) ^ 1 for index in nearest] == list(range(len(texts)))


@pytest.mark.anyio
async def test_any_script_and_the_empty_text_have_a_vector() -> None:
    async with Session() as session:
        vectors = await session.embed(["", "日本語", "👍🏽", "Привет, мир", "x" * 1000])
    assert np.isfinite(vectors).all()
