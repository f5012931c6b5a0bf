"""Weights that are no numbers, or overflow, at random places of a model file."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import gguf
import pytest

from asteady import EngineError
from asteady._engine.llama.engine import LlamaEngine
from asteady._engine.plan import Setup
from tests.engine.conftest import load
from tests.engine.driving import generate
from tests.faults.campaign import rounds
from tests.faults.conftest import Tally
from tests.gguf_files import with_values, write_llama

VALUES = (math.nan, math.inf, -math.inf, 3e38, -3e38, 1e30, 1e20)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("weights") / "good.gguf", weights="F32")


@pytest.mark.parametrize("seed", range(rounds(30, 2000)))
def test_damaged_weights_give_an_error_or_an_answer_of_numbers(
    good: Path, seed: int, tally: Tally
) -> None:
    draw = random.Random(seed)
    tensor = draw.choice(gguf.GGUFReader(good).tensors)
    index: tuple[Any, ...] = tuple(draw.randrange(size) for size in tensor.data.shape)
    if draw.random() < 0.3:
        index = index[:1]  # a whole row
    bad = good.parent / "bad.gguf"
    with_values(good, bad, (tensor.name, index, draw.choice(VALUES)))
    engine = load(good.parent, "bad.gguf", setup=Setup(width=2))
    try:
        for options in ({}, {"temperature": 1e-9}, {"temperature": 1, "repeat_penalty": 0.01}):
            tally(outcome(engine, options), 1)
    finally:
        engine.close()


def outcome(engine: LlamaEngine, options: dict[str, float]) -> str:
    try:
        answer = generate(engine, "Hi there", max_new_tokens=8, logprobs=3, **options)
    except EngineError:
        return "errors"
    for entry in answer.logprobs or ():
        assert math.isfinite(entry.logprob)
    return "answers"
