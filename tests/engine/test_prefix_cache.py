"""Declared prefixes on real llama.cpp: the same bits, whoever made the state, and bounded bytes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import attrs
import llama_cpp
import pytest

from asteady._base.requests import DeclaredPrefix, GenerateRequest
from asteady._engine.api import SharesPrefixes, Worker, prepare
from asteady._engine.llama.engine import LlamaEngine
from asteady._engine.llama.generate import GenerateJob
from asteady._engine.plan import EngineOptions, Setup
from asteady._engine.prefix_cache import PrefixCache
from tests.engine.conftest import load
from tests.engine.driving import digest, drain, together
from tests.gguf_files import CHAT_TEMPLATE, write_llama

WIDTH = 4
# More than 1,100 tokens: 17 whole pieces of 64.
SYSTEM = "".join(f"{number:03} a rule about caches and queues. " for number in range(40))
SHARED = 1088
PREFIX = DeclaredPrefix(SYSTEM)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("prefixes")
    write_llama(directory / "long.gguf", context=2048)
    return directory


@pytest.fixture
def engine(directory: Path) -> Iterator[LlamaEngine]:
    engine = load(directory, "long.gguf", setup=Setup(width=WIDTH))
    yield engine
    engine.close()


def asked(index: int, system: str = SYSTEM) -> GenerateRequest:
    return GenerateRequest.of(
        messages=[
            {"role": "system", "content": system},
            {"role": "user", "content": f"{index}: " + "what is it? " * (index % 5)},
        ],
        temperature=0.8 * (index % 2),
        seed=index,
        logprobs=2,
        max_new_tokens=8 + index % 4,
    )


def declared(
    engine: LlamaEngine, request: GenerateRequest, prefix: DeclaredPrefix = PREFIX
) -> GenerateJob:
    job = engine.prepare_declared(request, prefix)
    assert isinstance(job, GenerateJob)
    return job


def answers(worker: Worker, jobs: list[GenerateJob]) -> list[str]:
    """What they are answered, side by side."""
    slots = [worker.admit(job) for job in jobs]
    found, _ = drain(worker, *slots)
    return [digest(found[slot]) for slot in slots]


def alone(engine: LlamaEngine, request: GenerateRequest) -> str:
    (answer,) = together(engine, [request])
    return digest(answer)


def test_a_prompt_after_a_kept_state_gets_the_same_bits_in_any_context(engine: LlamaEngine) -> None:
    requests = [asked(index) for index in range(8)]
    expected = [alone(engine, request) for request in requests]
    jobs = [declared(engine, request) for request in requests]
    assert {job.shared_tokens for job in jobs} == {SHARED}

    # Made beside others, in the last sequence of one context ...
    maker = engine.open_worker()
    others = [GenerateRequest.of("hi" * 300 + str(n), max_new_tokens=20) for n in range(3)]
    slots = [maker.admit(engine.prepare(other)) for other in others]
    slot = maker.admit(jobs[0])
    found, _ = drain(maker, slot, *slots)
    assert digest(found[slot]) == expected[0]
    assert [digest(found[s]) for s in slots] == [alone(engine, other) for other in others]
    assert (engine.prefix_statistics().made, engine.prefix_statistics().reused) == (1, 0)

    # ... used in all sequences of another, and again where something else was before.
    user = engine.open_worker()
    assert answers(user, jobs[:4]) == expected[:4]
    assert answers(user, [declared(engine, other) for other in others])
    assert answers(user, jobs[4:]) == expected[4:]
    told = engine.prefix_statistics()
    assert (told.made, told.reused, told.reused_tokens) == (1, 8, 8 * SHARED)
    maker.close()
    user.close()


@pytest.mark.parametrize(("window", "made"), [(SHARED, 1), (SHARED - 1, 0)])
def test_a_state_that_a_window_has_moved_past_is_not_kept(
    tmp_path: Path, window: int, made: int
) -> None:
    write_llama(tmp_path / "window.gguf", context=2048, layers=4, window=window)
    engine = load(tmp_path, "window.gguf", setup=Setup(width=WIDTH))
    jobs = [declared(engine, asked(index)) for index in range(6)]
    # After the prefix it is cut again: this prompt shares the first half of it only.
    half = asked(7, SYSTEM[: len(SYSTEM) // 2] + "and nothing else. " * 30)
    expected = [alone(engine, asked(index)) for index in range(6)]
    for _ in range(2):
        worker = engine.open_worker()
        assert answers(worker, jobs) == expected
        assert answers(worker, [engine.prepare(half)]) == [alone(engine, half)]  # type: ignore[list-item]
        worker.close()
    assert engine.prefix_statistics().made == made
    engine.close()


def test_those_that_come_together_compute_it_once(engine: LlamaEngine) -> None:
    worker = engine.open_worker()
    jobs = [declared(engine, asked(index)) for index in range(WIDTH)]
    assert answers(worker, jobs) == [alone(engine, asked(index)) for index in range(WIDTH)]
    told = engine.prefix_statistics()
    assert (told.made, told.reused) == (1, WIDTH - 1)
    worker.close()


def test_a_longer_prefix_begins_with_the_state_of_a_shorter_one(engine: LlamaEngine) -> None:
    worker = engine.open_worker()
    longer = SYSTEM + SYSTEM[:700]
    answers(worker, [declared(engine, asked(1))])
    job = declared(engine, asked(1, longer), DeclaredPrefix(longer))
    assert job.shared_tokens == 1664
    assert answers(worker, [job]) == [alone(engine, asked(1, longer))]
    told = engine.prefix_statistics()
    assert (told.made, told.states, told.reused, told.reused_tokens) == (2, 2, 1, SHARED)
    worker.close()


def test_the_last_piece_of_a_prompt_is_always_computed(engine: LlamaEngine) -> None:
    text = "x" * (1024 - 1)  # and the token that begins a text
    raw = GenerateRequest.of(text, raw=True, max_new_tokens=4, logprobs=1)
    job = declared(engine, raw, DeclaredPrefix(None))
    assert (len(job.tokens), job.shared_tokens) == (1024, 960)
    more = GenerateRequest.of(text + "x", raw=True)
    assert declared(engine, more, DeclaredPrefix(text)).shared_tokens == 1024
    worker = engine.open_worker()
    assert answers(worker, [job, job]) == [alone(engine, raw)] * 2
    assert engine.prefix_statistics().reused_tokens == 960
    worker.close()


def test_a_prompt_that_begins_otherwise_shares_what_it_has_in_common(engine: LlamaEngine) -> None:
    assert declared(engine, GenerateRequest.of("hi" * 400)).shared_tokens == 0
    parting = SYSTEM[:900] + "!" + SYSTEM[900:]
    assert declared(engine, asked(0, parting)).shared_tokens == 640
    assert declared(engine, asked(0), DeclaredPrefix("Be brief.")).shared_tokens == 0
    assert declared(engine, GenerateRequest.of(SYSTEM + "?", raw=True)).shared_tokens == SHARED


def test_a_template_that_refuses_the_prefix_alone_shares_nothing(tmp_path: Path) -> None:
    refusing = (
        "{% if messages[-1].content == '' %}{{ raise_exception('say it') }}{% endif %}"
        + CHAT_TEMPLATE
    )
    write_llama(tmp_path / "refusing.gguf", context=2048, template=refusing)
    engine = load(tmp_path, "refusing.gguf")
    assert declared(engine, asked(0)).shared_tokens == 0
    engine.close()


@pytest.mark.parametrize("asks", ["is_recurrent", "is_hybrid"])
def test_models_with_another_memory_share_nothing(
    asks: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_cpp, f"llama_model_{asks}", lambda model: 128)
    engine = load(directory, "long.gguf")
    assert declared(engine, asked(0)).shared_tokens == 0
    engine.close()


def test_a_computation_that_is_given_up_in_the_middle_leaves_nothing(engine: LlamaEngine) -> None:
    worker = engine.open_worker()
    jobs = [declared(engine, asked(index)) for index in range(2)]
    slot = worker.admit(jobs[0])
    assert worker.step() == []  # the first of its pieces
    worker.interrupt(slot)
    worker.release(slot)
    assert engine.prefix_statistics().states == 0

    # The next one makes the state, is given up right after it, and the state stays good.
    slot = worker.admit(jobs[1])
    for _ in range(SHARED // 64 - 1):
        worker.step()
    assert engine.prefix_statistics().states == 1
    worker.interrupt(slot)
    worker.release(slot)
    assert answers(worker, jobs) == [alone(engine, asked(index)) for index in range(2)]
    # The one that was given up had begun with the first piece of the one before.
    assert engine.prefix_statistics().reused == 3
    worker.close()


def test_states_that_do_not_fit_are_not_kept(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = EngineOptions(probe=False, prefix_max_bytes=1000)
    engine = load(directory, "long.gguf", options, setup=Setup(width=2))
    worker = engine.open_worker()
    with caplog.at_level(logging.WARNING, "asteady"):
        jobs = [declared(engine, asked(index)) for index in range(2)]
        assert answers(worker, jobs) == [alone(engine, asked(index)) for index in range(2)]
    told = engine.prefix_statistics()
    # The second one finds in the context what the first one computed.
    assert (told.too_large, told.states, told.made, told.reused) == (2, 0, 0, 1)
    assert [record.message.count("prefix_max_size_mb") for record in caplog.records] == [1]
    worker.close()
    engine.close()


def test_a_state_that_cannot_be_put_back_is_made_anew(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker = engine.open_worker()
    job = declared(engine, asked(1))
    expected = [alone(engine, asked(1))]
    assert answers(worker, [job]) == expected
    worker.close()
    worker = engine.open_worker()
    real = llama_cpp.llama_state_seq_set_data
    monkeypatch.setattr(llama_cpp, "llama_state_seq_set_data", lambda *_: real(*_) and 0)
    assert answers(worker, [job]) == expected
    assert "without its cached prefix" in caplog.text
    told = engine.prefix_statistics()
    assert (told.made, told.states, told.reused) == (2, 1, 0)
    worker.close()


@pytest.mark.parametrize("failure", [0, MemoryError()])
def test_a_state_that_cannot_be_copied_is_not_cached(
    failure: int | MemoryError,
    engine: LlamaEngine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> int:
        if isinstance(failure, MemoryError):
            raise failure
        return failure

    monkeypatch.setattr(llama_cpp, "llama_state_seq_get_data", fail)
    worker = engine.open_worker()
    assert answers(worker, [declared(engine, asked(1))]) == [alone(engine, asked(1))]
    assert "is not cached" in caplog.text
    assert engine.prefix_statistics().states == 0
    worker.close()


def test_a_state_of_no_bytes_is_a_failure_and_not_cached(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # What llama.cpp says when it fails, of the size and of what it copied.
    monkeypatch.setattr(llama_cpp, "llama_state_seq_get_size", lambda *_: 0)
    monkeypatch.setattr(llama_cpp, "llama_state_seq_get_data", lambda *_: 0)
    worker = engine.open_worker()
    for index in range(2):
        assert answers(worker, [declared(engine, asked(index))]) == [alone(engine, asked(index))]
    assert "is not cached" in caplog.text
    assert engine.prefix_statistics().states == 0
    worker.close()


def test_closing_the_engine_lets_go_of_the_states(directory: Path) -> None:
    engine = load(directory, "long.gguf")
    worker = engine.open_worker()
    answers(worker, [declared(engine, asked(0))])
    assert engine.prefix_statistics().size_bytes > 0
    worker.close()
    engine.close()
    assert engine.prefix_statistics().size_bytes == 0


def test_an_engine_that_shares_nothing_is_asked_without_the_prefix(bert: LlamaEngine) -> None:
    from asteady.testing import FakeEngine

    fake = FakeEngine()
    assert not isinstance(fake, SharesPrefixes)
    assert prepare(fake, asked(0), PREFIX).request == asked(0)


def test_states_are_bounded_in_bytes_and_the_least_recently_used_goes() -> None:
    states = PrefixCache(100, 512)
    tokens = {name: tuple(range(start, start + 512)) for start, name in enumerate("abc")}
    states.put(tokens["a"], 512, bytes(40))
    states.put(tokens["b"], 512, bytes(40))
    assert states.find(tokens["a"], 512) == (512, bytes(40))
    states.put(tokens["c"], 512, bytes(50))
    assert states.find(tokens["b"], 512) is None
    told = states.statistics()
    assert (told.states, told.size_bytes, told.evicted, told.made) == (2, 90, 1, 3)

    # The same once more replaces it.
    states.put(tokens["c"], 512, bytes(30))
    assert states.statistics().size_bytes == 70
    assert states.statistics() == attrs.evolve(told, states=2, size_bytes=70, made=4)
    states.clear()
    assert states.statistics().size_bytes == 0


def test_a_state_is_found_for_the_very_tokens_only() -> None:
    states = PrefixCache(100, 512)
    tokens = tuple(range(1024))
    states.put(tokens, 512, b"half")
    assert states.find(tokens, 1024) == (512, b"half")
    states.put(tokens, 1024, b"whole")
    assert states.find(tokens, 1024) == (1024, b"whole")
    assert states.find((*tokens[:1023], 7), 1024) == (512, b"half")
    assert states.find((*tokens[:511], 7), 512) is None
