"""Drives a worker on the test's own thread, without a pool."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from asteady._base.requests import Completion, Embedding, GenerateRequest
from asteady._engine.api import (
    AnswerEvent,
    ChunkEvent,
    Engine,
    ErrorEvent,
    Request,
    SlotId,
    Worker,
)


def drain(
    worker: Worker, *slots: SlotId
) -> tuple[dict[SlotId, Completion | Embedding], dict[SlotId, list[str]]]:
    """Step until these are answered; the answers and the chunks by slot."""
    answers: dict[SlotId, Completion | Embedding] = {}
    chunks: dict[SlotId, list[str]] = {}
    while not answers.keys() >= set(slots):
        for event in worker.step():
            if isinstance(event, ChunkEvent):
                chunks.setdefault(event.slot, []).append(event.text)
            elif isinstance(event, AnswerEvent):
                answers[event.slot] = event.answer
            else:
                assert isinstance(event, ErrorEvent)
                raise event.error
    return answers, chunks


def together(engine: Engine, requests: Sequence[Request]) -> list[Completion | Embedding]:
    """The answers of one worker that takes as many at once as it can."""
    worker = engine.open_worker()
    answers: dict[int, Completion | Embedding] = {}
    slots: dict[SlotId, int] = {}
    waiting = list(enumerate(requests))
    try:
        while len(answers) < len(requests):
            while waiting and len(slots) - len(answers) < engine.width:
                index, request = waiting.pop(0)
                slots[worker.admit(engine.prepare(request))] = index
            for event in worker.step():
                if isinstance(event, ErrorEvent):
                    raise event.error
                if isinstance(event, AnswerEvent):
                    answers[slots[event.slot]] = event.answer
    finally:
        worker.close()
    return [answers[index] for index in range(len(requests))]


def generate(engine: Engine, prompt: str, **options: object) -> Completion:
    """One answer by a fresh worker."""
    request = GenerateRequest.of(prompt, **options)  # type: ignore[arg-type]  # checked by `of`
    (answer,) = together(engine, [request])
    assert isinstance(answer, Completion)
    return answer


def digest(answer: Completion | Embedding) -> str:
    """All bytes of an answer but its cost."""
    if isinstance(answer, Embedding):
        return hashlib.sha256(answer.vector.tobytes()).hexdigest()
    described = repr(
        (
            answer.text,
            answer.chunks,
            answer.finish_reason,
            answer.prompt_tokens,
            answer.completion_tokens,
            answer.logprobs,
        )
    )
    return hashlib.sha256(described.encode()).hexdigest()
