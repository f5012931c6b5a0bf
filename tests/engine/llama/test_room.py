"""Prompts that begin as earlier ones: fewer tokens are computed, and no bit changes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import attrs
import llama_cpp
import pytest

from asteady import Session
from asteady._base.errors import PromptTooLongError
from asteady._base.requests import Completion, GenerateRequest
from asteady._engine.api import AnswerEvent, ErrorEvent, Worker
from asteady._engine.cores import Cores
from asteady._engine.llama import generate as generate_module
from asteady._engine.llama.context import Context
from asteady._engine.llama.engine import LlamaEngine
from asteady._engine.llama.generate import GenerateWorker
from asteady._engine.llama.room import Room
from asteady._engine.loader import load_engine
from asteady._engine.memory import ContextMemory
from asteady._engine.models.resolve import resolve_model
from asteady._engine.plan import EngineOptions, RoomShape, Setup
from tests.engine.driving import drain
from tests.gguf_files import write_llama

PIECE = 64
# Width and layout as a probe would allow on any CPU that the suite runs on (test_probe.py).
SETUP = Setup(width=8, repack=True)

SHARED = "the same beginning of every prompt, a long instruction with examples and a table; " * 6


# With a window that the prompts below are longer than, and that is no multiple of a piece.
@pytest.fixture(scope="module", params=[None, 100], ids=["whole", "window"])
def window(request: pytest.FixtureRequest) -> int | None:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, window: int | None) -> Path:
    file = tmp_path_factory.mktemp("room") / "model.gguf"
    return write_llama(file, context=4096, layers=2 if window is None else 4, window=window)


def open_engine(
    path: Path, options: EngineOptions | None = None, memory: ContextMemory | None = None
) -> LlamaEngine:
    file = resolve_model(str(path), kind="generation", cache_dir=path.parent)
    return load_engine(
        file, options or EngineOptions(), path.parent, SETUP, cores=Cores(1), memory=memory
    )


@pytest.fixture
def engine(path: Path) -> Iterator[LlamaEngine]:
    engine = open_engine(path)
    yield engine
    engine.close()


def ask(text: str, tokens: int = 6, **options: object) -> GenerateRequest:
    return GenerateRequest.of(
        text,
        raw=True,
        max_new_tokens=tokens,
        logprobs=3,
        **{"temperature": 0, "seed": 5, **options},  # type: ignore[arg-type]
    )


def answer(worker: Worker, engine: LlamaEngine, request: GenerateRequest) -> Completion:
    slot = worker.admit(engine.prepare(request))
    (completion,) = drain(worker, slot)[0].values()
    assert isinstance(completion, Completion)
    return completion


def fresh(engine: LlamaEngine, request: GenerateRequest) -> Completion:
    """The answer of a new worker, which has nothing to reuse."""
    worker = engine.open_worker()
    try:
        completion = answer(worker, engine, request)
    finally:
        worker.close()
    assert completion.reused_tokens == 0
    return attrs.evolve(completion, cost_s=0.0)


def same(completion: object, engine: LlamaEngine, request: GenerateRequest) -> bool:
    """Whether it has the text and the bits of all log-probabilities of a fresh worker's."""
    assert isinstance(completion, Completion)
    return attrs.evolve(completion, cost_s=0.0) == fresh(engine, request)


def tokens_of(engine: LlamaEngine, request: GenerateRequest) -> tuple[int, ...]:
    tokens: tuple[int, ...] = engine.prepare(request).tokens  # type: ignore[attr-defined]
    return tokens


def shared_pieces(engine: LlamaEngine, one: GenerateRequest, other: GenerateRequest) -> int:
    """The tokens of the whole pieces that both prompts begin with."""
    pairs = zip(tokens_of(engine, one), tokens_of(engine, other), strict=False)
    count = 0
    for left, right in pairs:
        if left != right:
            break
        count += 1
    least = min(len(tokens_of(engine, one)), len(tokens_of(engine, other)) - 1)
    return min(count, least) // PIECE * PIECE


def start(worker: Worker, engine: LlamaEngine, request: GenerateRequest) -> int:
    """Admit it and compute its prompt and a few tokens."""
    slot = worker.admit(engine.prepare(request))
    pieces = -(-len(tokens_of(engine, request)) // PIECE)
    for _ in range(3 * pieces + 6):
        for event in worker.step():
            assert not isinstance(event, ErrorEvent | AnswerEvent)
    return slot


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_prompt_that_begins_like_the_last_one_gets_the_same_bits(
    engine: LlamaEngine, temperature: float
) -> None:
    worker = engine.open_worker()
    first = ask(SHARED + "first", temperature=temperature)
    assert same(answer(worker, engine, first), engine, first)
    for end in ("second", "third and " * 30, ""):
        request = ask(SHARED + end, temperature=temperature)
        completion = answer(worker, engine, request)
        assert completion.reused_tokens == shared_pieces(engine, first, request) >= 2 * PIECE
        assert same(completion, engine, request)
    worker.close()


def test_the_same_prompt_again_computes_its_last_piece(engine: LlamaEngine) -> None:
    worker = engine.open_worker()
    for characters in range(PIECE * 2, PIECE * 4, 9):
        request = ask((SHARED * 3)[:characters])
        size = len(tokens_of(engine, request))
        answer(worker, engine, request)
        again = answer(worker, engine, request)
        assert again.reused_tokens == (size - 1) // PIECE * PIECE
        assert same(again, engine, request)
    worker.close()


def test_a_prompt_of_whole_pieces(engine: LlamaEngine) -> None:
    text = next(
        SHARED[:end]
        for end in range(PIECE, len(SHARED))
        if len(tokens_of(engine, ask(SHARED[:end]))) == 2 * PIECE
    )
    worker = engine.open_worker()
    for request in (ask(text), ask(text), ask(text + " and more")):
        assert same(answer(worker, engine, request), engine, request)
    assert answer(worker, engine, ask(text)).reused_tokens == PIECE
    assert answer(worker, engine, ask(text + " and more")).reused_tokens == 2 * PIECE
    worker.close()


def test_what_was_decoded_is_not_reused(engine: LlamaEngine) -> None:
    """An answer's tokens were computed one at a time, which has other bits than a piece."""
    worker = engine.open_worker()
    first = ask(SHARED[:100], tokens=200)
    completion = answer(worker, engine, first)
    more = ask(SHARED[:100] + completion.text + " more")
    continued = answer(worker, engine, more)
    assert continued.reused_tokens <= len(tokens_of(engine, first)) // PIECE * PIECE
    assert same(continued, engine, more)
    worker.close()


def test_reuse_beside_busy_slots(engine: LlamaEngine, window: int | None) -> None:
    worker = engine.open_worker()
    answer(worker, engine, ask(SHARED + "before"))
    others = [ask(f"{number} another " * 20, tokens=60) for number in range(3)]
    requests = [*others, ask(SHARED + "one", 60), ask(SHARED + "two " * 40), ask(SHARED + "three")]
    slots = [start(worker, engine, request) for request in others]
    slots += [worker.admit(engine.prepare(request)) for request in requests[3:]]
    answers, _ = drain(worker, *slots)
    for slot, request in zip(slots, requests, strict=True):
        assert same(answers[slot], engine, request)
    reused = [answers[slot].reused_tokens for slot in slots]  # type: ignore[union-attr]
    assert reused[:3] == [0, 0, 0]
    assert reused[3] >= 2 * PIECE
    if window is None:
        assert min(reused[4:]) >= 2 * PIECE
    else:  # what a busy sequence holds cannot be copied
        assert reused[4:] == [0, 0]
    worker.close()


def test_what_a_busy_sequence_holds_is_copied(
    engine: LlamaEngine, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = count_restores(monkeypatch)
    worker = engine.open_worker()
    busy = ask(SHARED + "busy", tokens=80)
    slot = start(worker, engine, busy)
    assert not copies
    request = ask(SHARED + "beside it")
    other = worker.admit(engine.prepare(request))
    answers, _ = drain(worker, slot, other)
    copied = answers[other]
    assert isinstance(copied, Completion)
    # The window has moved past the beginning, which a copy would lack.
    assert len(copies) == (window is None)
    assert copied.reused_tokens == len(copies) * shared_pieces(engine, busy, request)
    assert same(copied, engine, request)
    assert same(answers[slot], engine, busy)
    worker.close()


def count_restores(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    restored: list[int] = []
    original = Context.restore

    def restore(self: Context, sequence: int, state: bytes) -> None:
        original(self, sequence, state)
        restored.append(sequence)

    monkeypatch.setattr(Context, "restore", restore)
    return restored


def rooms(worker: Worker) -> list[RoomShape]:
    assert isinstance(worker, GenerateWorker)
    return [room.shape for room in worker._rooms]


def test_a_longer_prompt_gets_a_larger_room_with_what_was_held(
    engine: LlamaEngine, window: int | None
) -> None:
    worker = engine.open_worker()
    assert rooms(worker) == []
    first = ask(SHARED + "first")
    answer(worker, engine, first)
    assert [shape.tokens for shape in rooms(worker)] == [1024]
    longer = ask(SHARED + "a longer one " * 100)
    completion = answer(worker, engine, longer)
    assert [shape.tokens for shape in rooms(worker)] == [2048]
    shared = shared_pieces(engine, first, longer)
    assert completion.reused_tokens == (shared if window is None else 0)
    assert same(completion, engine, longer)
    again = answer(worker, engine, first)
    assert again.reused_tokens > 0
    assert same(again, engine, first)
    worker.close()


def test_running_answers_end_in_the_room_where_they_began(
    engine: LlamaEngine, window: int | None
) -> None:
    worker = engine.open_worker()
    running = ask(SHARED + "running", tokens=60)
    slot = start(worker, engine, running)
    longer = ask("another " * 400, tokens=10)
    other = worker.admit(engine.prepare(longer))
    worker.step()
    assert [shape.tokens for shape in rooms(worker)] == [1024, 2048]
    answers, _ = drain(worker, slot, other)
    assert same(answers[slot], engine, running)
    assert same(answers[other], engine, longer)
    # The old room is closed, and what it held is in the new one.
    assert [shape.tokens for shape in rooms(worker)] == [2048]
    later = ask(SHARED + "later")
    completion = answer(worker, engine, later)
    shared = shared_pieces(engine, running, later)
    assert completion.reused_tokens == (shared if window is None else 0)
    assert same(completion, engine, later)
    worker.close()


def small_rooms(monkeypatch: pytest.MonkeyPatch, first: int = 1) -> None:
    """Rooms of one sequence at first, and then of as many as are busy and one more."""

    def shape(last: RoomShape | None, *, busy: int, **_: int) -> RoomShape:
        wanted = first if last is None else max(last.sequences, 2 * (busy + 1))
        return RoomShape(sequences=wanted, tokens=1024)

    monkeypatch.setattr(generate_module, "room_shape", shape)


def test_more_requests_get_a_room_with_more_sequences(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_rooms(monkeypatch)
    worker = engine.open_worker()
    requests = [ask(SHARED + f"{number} " * 30, tokens=40) for number in range(5)]
    slots = [start(worker, engine, requests[0])]
    assert [shape.sequences for shape in rooms(worker)] == [1]
    slots += [worker.admit(engine.prepare(request)) for request in requests[1:]]
    answers, _ = drain(worker, *slots)
    for slot, request in zip(slots, requests, strict=True):
        assert same(answers[slot], engine, request)
    assert len(rooms(worker)) == 1
    assert rooms(worker)[0].sequences > 1
    last = ask(SHARED + "last")
    completion = answer(worker, engine, last)
    assert completion.reused_tokens > 0
    assert same(completion, engine, last)
    worker.close()


def test_a_release_in_the_middle_of_a_prompt_leaves_whole_pieces(engine: LlamaEngine) -> None:
    worker = engine.open_worker()
    request = ask(SHARED * 2)
    for pieces in (1, 2, 2):
        slot = worker.admit(engine.prepare(request))
        for _ in range(pieces):
            assert worker.step() == []
        worker.interrupt(slot)
        assert worker.step() == []
        worker.release(slot)
    completion = answer(worker, engine, request)
    # Each of them went on from where the one before was given up.
    assert completion.reused_tokens == 5 * PIECE
    assert same(completion, engine, request)
    worker.close()


def test_a_release_while_decoding_leaves_the_prompt(engine: LlamaEngine) -> None:
    worker = engine.open_worker()
    request = ask(SHARED + "first", tokens=100)
    slot = start(worker, engine, request)
    worker.release(slot)
    completion = answer(worker, engine, request)
    size = len(tokens_of(engine, request))
    assert completion.reused_tokens == (size - 1) // PIECE * PIECE
    assert same(completion, engine, request)
    worker.close()


def test_a_released_slot_that_never_had_a_sequence(engine: LlamaEngine) -> None:
    worker = engine.open_worker()
    slot = worker.admit(engine.prepare(ask("hello")))
    worker.release(slot)
    worker.release(slot)
    assert worker.step() == []
    assert rooms(worker) == []
    request = ask("hello")
    assert same(answer(worker, engine, request), engine, request)
    worker.close()


def test_the_worker_tells_how_much_it_holds(engine: LlamaEngine) -> None:
    worker = engine.open_worker()
    assert isinstance(worker, GenerateWorker)
    first, second = ask(SHARED + "first"), ask(SHARED + "second")
    job = engine.prepare(second)
    assert worker.shared_tokens(job) == 0
    answer(worker, engine, first)
    assert worker.shared_tokens(job) == shared_pieces(engine, first, second) > 0
    assert worker.shared_tokens(engine.prepare(ask("something else " * 20))) == 0
    worker.close()
    assert worker.shared_tokens(job) == 0


@pytest.mark.parametrize("kind", ["recurrent", "hybrid"])
def test_a_state_that_cannot_be_cut_is_not_reused(
    path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(llama_cpp, f"llama_model_is_{kind}", lambda _: True)
    engine = open_engine(path)
    worker = engine.open_worker()
    request = ask(SHARED)
    for _ in range(2):
        completion = answer(worker, engine, request)
        assert completion.reused_tokens == 0
        assert same(completion, engine, request)
    assert isinstance(worker, GenerateWorker)
    assert worker.shared_tokens(engine.prepare(request)) == 0
    worker.close()
    engine.close()


@pytest.mark.parametrize("function", ["llama_state_seq_get_data", "llama_state_seq_set_data"])
def test_a_state_that_cannot_be_copied_is_computed(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    worker = engine.open_worker()
    busy, request = ask(SHARED + "busy", tokens=60), ask(SHARED + "beside it")
    slot = start(worker, engine, busy)
    monkeypatch.setattr(llama_cpp, function, lambda *_: 0)
    other = worker.admit(engine.prepare(request))
    answers, _ = drain(worker, slot, other)
    completion = answers[other]
    assert isinstance(completion, Completion)
    assert completion.reused_tokens == 0
    assert same(completion, engine, request)
    assert same(answers[slot], engine, busy)
    # Nor is anything carried to a larger room.
    longer = ask(SHARED + "a longer one " * 100)
    completion = answer(worker, engine, longer)
    assert completion.reused_tokens == 0
    assert same(completion, engine, longer)
    worker.close()


def test_reused_tokens_do_not_count_when_answers_are_compared(engine: LlamaEngine) -> None:
    worker = engine.open_worker()
    request = ask(SHARED)
    first, second = (answer(worker, engine, request) for _ in range(2))
    worker.close()
    assert first.reused_tokens == 0
    assert second.reused_tokens > 0
    assert attrs.evolve(first, cost_s=0.0) == attrs.evolve(second, cost_s=0.0)


def test_prompts_without_a_common_beginning_displace_the_oldest(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_rooms(monkeypatch, first=2)
    worker = engine.open_worker()
    prompts = [ask(f"{number} is a prompt of its own, " * 12) for number in range(3)]
    for request in prompts:
        assert same(answer(worker, engine, request), engine, request)
    assert isinstance(worker, GenerateWorker)
    held = [worker.shared_tokens(engine.prepare(request)) > 0 for request in prompts]
    assert held == [False, True, True]
    worker.close()


# Little memory.


def bytes_for(engine: LlamaEngine, tokens: int) -> int:
    assert engine._loaded is not None
    return engine._loaded.kv_bytes * tokens


def test_a_room_is_as_large_as_memory_allows_and_keeps_what_it_can(path: Path) -> None:
    engine = open_engine(path)
    size = bytes_for(engine, 1024)
    engine.close()
    memory = ContextMemory(3 * size)
    engine = open_engine(path, memory=memory)
    worker = engine.open_worker()
    prompts = [ask(f"{number} is a prompt of its own, " * 12) for number in range(3)]
    for request in prompts:
        answer(worker, engine, request)
    assert rooms(worker) == [RoomShape(sequences=2, tokens=1024)]
    assert memory.used_bytes == 2 * size
    # Only the oldest had to go.
    completion = answer(worker, engine, prompts[1])
    assert completion.reused_tokens > 0
    worker.close()
    assert memory.used_bytes == 0
    engine.close()


def test_a_prompt_that_memory_can_never_hold_names_the_setting(path: Path) -> None:
    engine = open_engine(path)
    size = bytes_for(engine, 1024)
    engine.close()
    engine = open_engine(path, EngineOptions(context_bytes=size))
    prompt = "a longer one " * 180
    with pytest.raises(
        PromptTooLongError, match=r"context_memory_mb is .*\(ASTEADY_CONTEXT_MEMORY_MB\)"
    ) as caught:
        engine.prepare(ask(prompt))
    count = int(re.search(r"has (\d+) tokens", str(caught.value))[1])  # type: ignore[index]
    assert 1024 < count < 2048
    # The answer counts too.
    with pytest.raises(PromptTooLongError, match="max_new_tokens"):
        engine.prepare(ask("short", tokens=1024))
    worker = engine.open_worker()
    request = ask("short", tokens=20)
    assert same(answer(worker, engine, request), engine, request)
    worker.close()
    engine.close()


@pytest.mark.parametrize("running", [False, True])
def test_two_workers_share_little_memory(path: Path, running: bool) -> None:
    engine = open_engine(path)
    memory = ContextMemory(bytes_for(engine, 1024))
    expected = engine
    engine = open_engine(path, memory=memory)
    workers = [engine.open_worker() for _ in range(2)]
    requests = [ask(f"worker {number} " * 20, tokens=20) for number in range(2)]
    if running:
        slots = [
            worker.admit(engine.prepare(request))
            for worker, request in zip(workers, requests, strict=True)
        ]
        done: dict[int, object] = {}
        peak = 0
        while len(done) < 2:
            for number, worker in enumerate(workers):
                if number not in done:
                    for event in worker.step():
                        assert not isinstance(event, ErrorEvent)
                        if isinstance(event, AnswerEvent):
                            assert event.slot == slots[number]
                            done[number] = event.answer
                peak = max(peak, memory.used_bytes)
        assert 0 < peak <= memory.max_bytes
        answers = [done[0], done[1]]
    else:
        # The first one keeps its context until the second one needs the memory.
        answers = [
            answer(worker, engine, request)
            for worker, request in zip(workers, requests, strict=True)
        ]
        assert [len(rooms(worker)) for worker in workers] == [0, 1]
    for completion, request in zip(answers, requests, strict=True):
        assert same(completion, expected, request)
    for worker in workers:
        worker.close()
    assert memory.used_bytes == 0
    engine.close()
    expected.close()


def test_a_longer_prompt_takes_the_memory_of_the_last_room(path: Path) -> None:
    engine = open_engine(path)
    memory = ContextMemory(bytes_for(engine, 2048))
    engine.close()
    engine = open_engine(path, memory=memory)
    worker = engine.open_worker()
    short = ask(SHARED, tokens=30)
    slot = start(worker, engine, short)
    longer = ask(SHARED + "a longer one " * 100)
    other = worker.admit(engine.prepare(longer))
    answers, _ = drain(worker, slot, other)
    assert rooms(worker) == [RoomShape(sequences=1, tokens=2048)]
    worker.close()
    expected = open_engine(path)
    assert same(answers[slot], expected, short)
    assert same(answers[other], expected, longer)
    expected.close()
    engine.close()


def test_no_room_is_shed_while_its_worker_uses_it(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread may ask at any moment, also while a slot is released."""
    worker = engine.open_worker()
    assert isinstance(worker, GenerateWorker)
    slot = start(worker, engine, ask(SHARED, tokens=30))
    worker.shed()
    assert len(rooms(worker)) == 1
    original = Room.leave

    def leave(self: Room, number: int) -> None:
        original(self, number)
        worker.shed()
        assert self.context.native is not None

    monkeypatch.setattr(Room, "leave", leave)
    worker.release(slot)
    assert len(rooms(worker)) == 1
    worker.shed()
    assert rooms(worker) == []
    worker.close()


# The length of a context.


def test_a_context_is_what_the_model_was_trained_on(engine: LlamaEngine) -> None:
    assert engine.context_tokens == 4096
    job = engine.prepare(ask("hello", tokens=10**6))
    assert len(job.tokens) + job.limit == 4096  # type: ignore[attr-defined]
    with pytest.raises(PromptTooLongError, match=r"4096.*trained on.*a model with more"):
        engine.prepare(ask("hello " * 3000))


def test_a_setting_that_is_too_short_is_named_with_the_trained_length(path: Path) -> None:
    engine = open_engine(path, EngineOptions(context_tokens=300))
    assert engine.context_tokens == 300
    with pytest.raises(
        PromptTooLongError,
        match=r"a context of 300 .*context_tokens \(ASTEADY_CONTEXT_TOKENS\).*trained on 4096",
    ):
        engine.prepare(ask("hello " * 200))
    worker = engine.open_worker()
    completion = answer(worker, engine, ask("hello " * 20, tokens=1000, temperature=1.0))
    assert completion.prompt_tokens + completion.completion_tokens <= 300
    worker.close()
    engine.close()


def test_a_setting_beyond_the_trained_length_does_nothing(path: Path) -> None:
    engine = open_engine(path, EngineOptions(context_tokens=10**6))
    plain = open_engine(path)
    assert engine.context_tokens == 4096
    assert engine.fingerprint == plain.fingerprint
    engine.close()
    plain.close()


@pytest.mark.anyio
async def test_a_session_reports_reused_tokens(path: Path, tmp_path: Path) -> None:
    async with Session(
        cache_dir=tmp_path, workers=1, probe=False, generation_model=str(path)
    ) as session:
        options = {"raw": True, "max_new_tokens": 4}
        first = await session.complete(SHARED + "first", **options)  # type: ignore[call-overload]
        second = await session.complete(SHARED + "second", **options)  # type: ignore[call-overload]
        cached = await session.complete(SHARED + "second", **options)  # type: ignore[call-overload]
    assert (first.reused_tokens, cached.reused_tokens) == (0, 0)
    assert cached.cached
    assert second.reused_tokens >= 2 * PIECE
