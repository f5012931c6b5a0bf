"""The built-in model with every sampling option at its limits: answers, and the same in a batch."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import asteady
from asteady._base.requests import Completion, GenerateRequest
from asteady._engine.llama.engine import LlamaEngine
from asteady._engine.plan import Setup
from tests.engine.conftest import load
from tests.engine.driving import digest, drain, together

# Of llama.cpp's numbers, which are float32, the first two are 0 and the third is denormal; of those
# near 1, the second is 1.
TINY = (0.0, 1e-46, 1e-40)
NEAR_ONE = (1 - 1e-6, 1 - 1e-9)

LIMITS: dict[str, tuple[Any, ...]] = {
    "top_k": (1, 2**31 - 1),
    "top_p": (*TINY, *NEAR_ONE),
    "min_p": (*TINY, *NEAR_ONE, 1),
    "typical_p": (*TINY, *NEAR_ONE),
    "repeat_penalty": (0.01, 1 + 1e-9, 10),
    "presence_penalty": (-10, 1e-40, 10),
    "frequency_penalty": (-10, 1e-40, 10),
    "logit_bias": ({5: 100, 100: -100}, dict.fromkeys(range(3072), -100)),
    "seed": (0, 2**32 - 2),
}


def options() -> list[dict[str, Any]]:
    single = [{"temperature": temperature} for temperature in (*TINY, 1e-6, 1, 100)]
    pairs = [
        {"temperature": temperature, name: value}
        for temperature in (0, 1e-6, 1, 100)
        for name, values in LIMITS.items()
        for value in values
    ]
    ends = [(values[0], values[-1]) for values in LIMITS.values()]
    every = [
        {"temperature": 1, **dict(zip(LIMITS, values, strict=True))}
        for values in itertools.islice(itertools.product(*ends), 0, None, 37)
    ]
    return single + pairs + every


@pytest.fixture(scope="module")
def builtin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaEngine]:
    directory = tmp_path_factory.mktemp("models")
    shutil.copy(Path(asteady.__file__).parent / "models" / "generate.gguf", directory)
    engine = load(directory, "generate.gguf", setup=Setup(width=4))
    yield engine
    engine.close()


@pytest.mark.parametrize("form", [{}, {"choices": ["good", "bad", "not good"]}])
def test_options_at_their_limits_give_an_answer_that_is_the_same_in_a_batch(
    builtin: LlamaEngine, form: dict[str, Any]
) -> None:
    requests = [
        GenerateRequest.of("Is rain good?", max_new_tokens=6, logprobs=2, **some, **form)
        for some in options()
    ]
    assert builtin.width == 4
    answers = together(builtin, requests)
    worker = builtin.open_worker()
    for request, answer in zip(requests, answers, strict=True):
        assert isinstance(answer, Completion)
        assert answer.completion_tokens > 0
        assert not form or answer.text in form["choices"], request
        for entry in answer.logprobs or ():
            assert all(map(math.isfinite, (entry.logprob, *(top[2] for top in entry.top))))
        slot = worker.admit(builtin.prepare(request))
        assert digest(drain(worker, slot)[0][slot]) == digest(answer), request
    worker.close()


def test_what_leaves_one_token_is_greedy(builtin: LlamaEngine) -> None:
    prompt = "Write a short poem about rain."
    narrow: list[dict[str, Any]] = [
        {},
        *({"temperature": value} for value in (*TINY, 1e-6)),
        *({"temperature": 100, "top_p": value} for value in TINY),
        *({"temperature": 100, "min_p": value} for value in (1 - 1e-9, 1)),
        {"temperature": 100, "top_k": 1},
    ]
    greedy, *others = together(
        builtin, [GenerateRequest.of(prompt, max_new_tokens=20, **some) for some in narrow]
    )
    assert isinstance(greedy, Completion)
    assert greedy.text
    assert [digest(answer) for answer in others] == [digest(greedy)] * len(others)
    (drawn,) = together(builtin, [GenerateRequest.of(prompt, max_new_tokens=20, temperature=100)])
    assert digest(drawn) != digest(greedy)
