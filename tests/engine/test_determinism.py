"""The promise: an answer's bytes do not depend on what else runs, ran before, or where.

Requests of many lengths, some past 512 positions, greedy and drawn, all with log-probabilities:
those are computed from the raw logits, so a single different bit in any of them would show.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asteady._base.requests import Chunk, Completion, GenerateRequest
from asteady._engine.api import ChunkEvent
from asteady._engine.llama.engine import LlamaEngine
from asteady._engine.plan import EngineOptions, Setup
from tests.engine.conftest import load
from tests.engine.driving import digest, drain, together
from tests.engine.pooled import OpenPool

pytestmark = pytest.mark.anyio

WORDS = ["The cache", "is a memory", "of answers;", "ask it", "again", "Grüße 😀"]


def requests() -> list[GenerateRequest]:
    made = []
    for index in range(20):
        # 14 to 181 tokens, and three beyond 512, which take more than one piece.
        count = 2 + index * index // 6 if index < 17 else 60 + 10 * index
        prompt = " ".join(WORDS[(index + place) % len(WORDS)] for place in range(count // 2))
        made.append(
            GenerateRequest.of(
                f"{index}: {prompt}",
                max_new_tokens=12 + 4 * (index % 5),
                temperature=(index % 3) * 0.8,
                seed=index,
                logprobs=index % 4,
                repeat_penalty=1.1 if index % 5 == 0 else 1.0,
                top_k=40 if index % 2 else 0,
            )
        )
    # One whose answer itself crosses 512 positions.
    made.append(
        GenerateRequest.of(
            " ".join(WORDS[place % len(WORDS)] for place in range(64)),
            max_new_tokens=60,
            logprobs=1,
        )
    )
    return made


@pytest.fixture(scope="module")
def alone(gpt2: LlamaEngine) -> list[str]:
    """What each request is answered when nothing else exists: a worker of its own."""
    answers = [together(gpt2, [request])[0] for request in requests()]
    spans = []
    for answer in answers:
        assert isinstance(answer, Completion)
        spans.append((answer.prompt_tokens, answer.prompt_tokens + answer.completion_tokens))
    assert sum(prompt > 512 for prompt, _ in spans) >= 3
    assert any(prompt < 512 < whole for prompt, whole in spans)
    digests = [digest(answer) for answer in answers]
    assert len(set(digests)) == len(digests)
    return digests


def test_in_order_and_in_reverse(gpt2: LlamaEngine, alone: list[str]) -> None:
    assert [digest(answer) for answer in together(gpt2, requests())] == alone
    backwards = together(gpt2, requests()[::-1])
    assert [digest(answer) for answer in backwards[::-1]] == alone


@pytest.mark.parametrize("workers", [1, 2, 3])
async def test_with_eight_at_once(
    models: Path, alone: list[str], workers: int, open_pool: OpenPool
) -> None:
    pool = open_pool(load(models, "gpt2.gguf"), workers, 100)
    limit = asyncio.Semaphore(8)

    async def one(request: GenerateRequest) -> str:
        async with limit:
            return digest(await pool.run(request))

    assert await asyncio.gather(*map(one, requests())) == alone


def test_with_more_threads(models: Path, alone: list[str]) -> None:
    # Three, more than a small machine has cores: then they sleep when they wait for each other,
    # where two would spin for seconds beside another process.
    chosen = [2, 18, 20]
    engine = load(models, "gpt2.gguf", EngineOptions(threads=3, probe=False))
    answers = together(engine, [requests()[index] for index in chosen])
    assert [digest(answer) for answer in answers] == [alone[index] for index in chosen]
    engine.close()


def test_with_another_context_length(models: Path, alone: list[str]) -> None:
    engine = load(models, "gpt2.gguf", EngineOptions(context_tokens=1000, probe=False))
    assert [digest(answer) for answer in together(engine, requests())] == alone
    engine.close()


def test_after_answers_that_were_given_up(gpt2: LlamaEngine, alone: list[str]) -> None:
    worker = gpt2.open_worker()
    for index, request in enumerate(requests()):
        given_up = worker.admit(gpt2.prepare(requests()[index - 7]))
        for _ in range(index % 4):
            worker.step()
        worker.interrupt(given_up)
        worker.step()
        worker.release(given_up)
        slot = worker.admit(gpt2.prepare(request))
        answers, _ = drain(worker, slot)
        assert digest(answers[slot]) == alone[index]
    worker.close()


async def test_after_cancellations(models: Path, alone: list[str], open_pool: OpenPool) -> None:
    pool = open_pool(load(models, "gpt2.gguf"), 2, 100)
    for index, request in enumerate(requests()):
        chunks: asyncio.Queue[Chunk] = asyncio.Queue()
        others = [
            asyncio.ensure_future(pool.run(other, chunks.put_nowait))
            for other in requests()[index - 4 : index] + requests()[:3]
        ]
        if index % 2:
            await chunks.get()
        for other in others:
            other.cancel()
        assert digest(await pool.run(request)) == alone[index]


CODE = """
import json, sys
from pathlib import Path
from typing import Any
from tests.engine.conftest import load
from tests.engine.driving import digest, together
from tests.engine.test_determinism import requests

engine = load(Path(sys.argv[1]), "gpt2.gguf")
print(json.dumps([digest(answer) for answer in together(engine, requests())]))
engine.close()
"""


def test_in_another_process(models: Path, alone: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(models)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert json.loads(done.stdout) == alone


@pytest.fixture(scope="module")
def wide(models: Path) -> Iterator[LlamaEngine]:
    engine = load(models, "gpt2.gguf", setup=Setup(width=4))
    yield engine
    engine.close()


def test_with_four_in_one_batch(wide: LlamaEngine, alone: list[str]) -> None:
    """Q8_0 held at every width that was ever probed; the engine still probes before it batches."""
    assert [digest(answer) for answer in together(wide, requests())] == alone


def test_a_newcomer_delays_the_running_by_four_pieces_at_a_time(
    wide: LlamaEngine, alone: list[str]
) -> None:
    worker = wide.open_worker()
    first = worker.admit(wide.prepare(GenerateRequest.of("Hi", max_new_tokens=40)))
    assert [type(event) for event in worker.step()] == [ChunkEvent]
    long = [worker.admit(wide.prepare(request)) for request in requests()[17:19]]
    progress = []
    answers: dict[int, Any] = {}
    while not answers.keys() >= {first, *long}:
        events = worker.step()
        progress.append(any(event.slot == first for event in events))
        answers.update({e.slot: e.answer for e in events if hasattr(e, "answer")})
    # Never five pieces without a step of the running one between.
    waits = "".join("x" if step else "-" for step in progress[:20])
    assert "-" * 5 not in waits
    assert "-" * 4 in waits
    assert [digest(answers[slot]) for slot in long] == alone[17:19]
    worker.close()
