"""The probe: which widths change no bit, found in the background, remembered, and used."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import llama_cpp
import pytest

from asteady import Session
from asteady._base.errors import EngineError
from asteady._base.requests import GenerateRequest
from asteady._engine import loader
from asteady._engine.cores import Cores
from asteady._engine.llama import engine as engine_module
from asteady._engine.llama.engine import LlamaEngine
from asteady._engine.llama.probe import STEPS, Probe
from asteady._engine.loader import (
    fingerprint_of,
    load_engine,
    probe_report,
    width_report,
)
from asteady._engine.memory import ContextMemory
from asteady._engine.models.resolve import ModelFile, resolve_model
from asteady._engine.plan import (
    EngineOptions,
    RoomShape,
    Setup,
    WidthReport,
    WidthResult,
    divide,
    repacks,
    room_shape,
)
from tests.engine.conftest import load
from tests.engine.driving import digest, together
from tests.engine.pooled import OpenPool
from tests.gguf_files import Weights, write_llama

Step = Callable[[Probe, Sequence[tuple[int, int, int]]], list[bytes]]


@pytest.fixture
def file(models: Path) -> ModelFile:
    return resolve_model(str(models / "gpt2.gguf"), kind="generation", cache_dir=models)


def test_a_window_that_is_shorter_than_the_probes_sequences(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "window.gguf", context=2048, layers=4, window=100)
    file = resolve_model(str(path), kind="generation", cache_dir=tmp_path)
    assert probe_report(file, EngineOptions(), tmp_path).width > 1


def requests() -> list[GenerateRequest]:
    lengths = [1, 60, 3, 100, 20, 7, 45, 2, 30, 90, 10, 5]
    return [
        GenerateRequest.of(
            f"{index} " + "remember it " * length,
            raw=True,
            max_new_tokens=10 + index,
            temperature=index % 2,
            seed=index,
            logprobs=2,
        )
        for index, length in enumerate(lengths)
    ]


def alone(file: ModelFile, cache_dir: Path) -> list[str]:
    engine = load_engine(file, EngineOptions(probe=False), cache_dir)
    try:
        return [digest(together(engine, [request])[0]) for request in requests()]
    finally:
        engine.close()


def change_steps(monkeypatch: pytest.MonkeyPatch, changed: Callable[..., list[bytes]]) -> None:
    """Steps of the probe are those that `changed` makes of a step's entries and logits."""
    original: Step = Probe._step

    def step(self: Probe, entries: Sequence[tuple[int, int, int]]) -> list[bytes]:
        return changed(entries, original(self, entries))

    monkeypatch.setattr(Probe, "_step", step)


@pytest.mark.anyio
@pytest.mark.parametrize("weights", ["Q8_0", "Q4_0", "F32"])
async def test_what_the_probe_allows_changes_no_bit(
    tmp_path: Path, weights: Weights, open_pool: OpenPool
) -> None:
    """Whatever this build and CPU allow, together gives the same bits as alone."""
    path = write_llama(tmp_path / "model.gguf", weights=weights, context=2048, width=128)
    file = resolve_model(str(path), kind="generation", cache_dir=tmp_path)
    expected = alone(file, tmp_path)
    report = probe_report(file, EngineOptions(), tmp_path)
    engine = load_engine(file, EngineOptions(), tmp_path)
    assert engine.width == engine.setup.width == report.width
    if weights == "F32":
        assert (engine.width, engine.setup.repack) == (1, False)
    assert [digest(answer) for answer in together(engine, requests())] == expected
    pool = open_pool(engine, 2, 100)
    answers = await asyncio.gather(*[pool.run(request) for request in requests() * 3])
    assert [digest(answer) for answer in answers] == expected * 3


def test_the_probe_finds_the_first_width_that_differs(
    file: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flawed(entries: Sequence[Any], logits: list[bytes]) -> list[bytes]:
        if len(entries) == 4:
            # One bit of one logit of one sequence.
            last = bytearray(logits[-1])
            last[77] ^= 1
            logits[-1] = bytes(last)
        return logits

    change_steps(monkeypatch, flawed)
    report = probe_report(file, EngineOptions(), tmp_path)
    assert [(result.width, result.equal) for result in report.widths] == [
        (1, True),
        (2, True),
        (3, True),
        (4, False),
    ]
    assert all(result.step_s > 0 for result in report.widths)
    assert report.width == 3
    assert not report.reason
    assert report.took_s > 0


@pytest.mark.parametrize("step", range(2 * STEPS))
def test_a_difference_at_any_step_is_seen(
    file: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    pairs = []

    def flawed(entries: Sequence[Any], logits: list[bytes]) -> list[bytes]:
        if len(entries) == 2:
            pairs.append(entries)
            # Of two groups of steps.
            if len(pairs) == step + 1:
                logits[0] = logits[0][:-1] + bytes([logits[0][-1] ^ 128])
        return logits

    change_steps(monkeypatch, flawed)
    assert probe_report(file, EngineOptions(), tmp_path).width == 1


def test_the_probe_goes_past_512_positions(
    file: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def noted(entries: Sequence[tuple[int, int, int]], logits: list[bytes]) -> list[bytes]:
        seen.append([position for _, _, position in entries])
        return logits

    change_steps(monkeypatch, noted)
    assert probe_report(file, EngineOptions(), tmp_path).width > 1
    for width in range(2, 9):
        positions = [step for step in seen if len(step) == width]
        assert any(max(step) > 512 for step in positions)
        assert any(min(step) < 100 for step in positions)
    # The long ones at both ends, and one group of two without any.
    assert any(len(step) == 2 and 4 < max(step) < 256 for step in seen)


def test_a_short_context_is_probed_within_its_bounds(models: Path, tmp_path: Path) -> None:
    file = resolve_model(str(models / "short.gguf"), kind="generation", cache_dir=models)
    assert probe_report(file, EngineOptions(), tmp_path).widths


def test_a_probe_is_remembered_by_model_build_and_limit(
    file: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = []
    original = Probe.__init__

    def counted(self: Probe, model: Any, vocab: Any, limit: int) -> None:
        limits.append(limit)
        original(self, model, vocab, limit)

    monkeypatch.setattr(Probe, "__init__", counted)
    assert width_report(file, EngineOptions(), tmp_path) is None
    first = probe_report(file, EngineOptions(), tmp_path)
    assert width_report(file, EngineOptions(), tmp_path) == first
    options = EngineOptions(threads=2, cores=1, context_tokens=100, context_bytes=2**30)
    assert probe_report(file, options, tmp_path) == first
    assert limits == [8]
    assert probe_report(file, EngineOptions(batch_width=2), tmp_path).width <= 2
    assert limits == [8, 2]
    assert width_report(attrs.evolve(file, sha256="1" * 64), EngineOptions(), tmp_path) is None
    monkeypatch.setattr(
        loader, "build_of", lambda _: {"libraries": "x", "version": "x", "system": "x"}
    )
    assert width_report(file, EngineOptions(), tmp_path) is None


@pytest.mark.parametrize(
    "spoiled",
    [
        None,
        7,
        {},
        [],
        {"widths": None, "reason": "", "took_s": 0.0},
        {"widths": [{"width": 8}], "reason": "", "took_s": 0.0},
        {"widths": [], "reason": "", "took_s": 0.0, "more": 1},
    ],
)
def test_a_spoiled_memory_is_probed_anew(
    file: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoiled: object
) -> None:
    monkeypatch.setattr(Probe, "run", lambda _: report_of(3))
    probe_report(file, EngineOptions(), tmp_path)
    memory = tmp_path / "probes.json"
    (key,) = json.loads(memory.read_text())
    memory.write_text(json.dumps({key: spoiled}))
    assert width_report(file, EngineOptions(), tmp_path) is None
    assert probe_report(file, EngineOptions(), tmp_path) == report_of(3)
    assert width_report(file, EngineOptions(), tmp_path) == report_of(3)


def report_of(width: int) -> WidthReport:
    """As if so many were equal, and one more was not."""
    return WidthReport(
        widths=tuple(
            WidthResult(width=each, equal=each <= width, step_s=0.001 * each)
            for each in range(1, width + 2)
        ),
        took_s=0.5,
    )


def test_the_width_is_the_largest_up_to_which_all_were_equal() -> None:
    assert WidthReport().width == 1
    assert report_of(1).width == 1
    assert report_of(5).width == 5


@pytest.mark.anyio
async def test_a_session_can_do_without_the_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASTEADY_PROBE", "0")
    monkeypatch.setattr(engine_module, "Probe", None)
    async with Session(cache_dir=tmp_path, workers=1) as session:
        assert not session.settings.probe
        answers = await asyncio.gather(
            *[session.complete(text, max_new_tokens=2) for text in ("a", "b", "c")]
        )
        assert session.statistics().pools["generation:builtin"].width == 1
    assert not (tmp_path / "probes.json").exists()
    file = resolve_model("builtin", kind="generation", cache_dir=tmp_path)
    # It is not in the fingerprint.
    assert answers[0].fingerprint == fingerprint_of(file, EngineOptions(), tmp_path)


def test_what_needs_no_probe_is_not_loaded(
    models: Path, file: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "load_engine", None)
    bert = resolve_model(str(models / "bert.gguf"), kind="embedding", cache_dir=models)
    floats = attrs.evolve(file, header=attrs.evolve(file.header, matrix_types=("F16", "F32")))
    reports = {
        "one at a time": probe_report(bert, EngineOptions(), tmp_path),
        "switched off": probe_report(file, EngineOptions(probe=False), tmp_path),
        "ASTEADY_BATCH_WIDTH": probe_report(file, EngineOptions(batch_width=1), tmp_path),
        "F16/F32 weights differ": probe_report(floats, EngineOptions(), tmp_path),
    }
    for reason, report in reports.items():
        assert report == WidthReport(reason=report.reason)
        assert report.width == 1
        assert reason in report.reason


@pytest.mark.parametrize("kind", ["recurrent", "hybrid"])
def test_a_model_whose_state_cannot_be_wound_back_runs_alone(
    file: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(llama_cpp, f"llama_model_is_{kind}", lambda _: True)
    report = probe_report(file, EngineOptions(), tmp_path)
    assert (report.width, report.widths) == (1, ())
    assert "wound back" in report.reason


def test_a_state_that_cannot_be_copied_is_an_error(
    file: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_cpp, "llama_state_seq_set_data", lambda *_: 0)
    with pytest.raises(EngineError, match="state"):
        probe_report(file, EngineOptions(), tmp_path)
    assert width_report(file, EngineOptions(), tmp_path) is None


def test_a_probe_without_memory_is_an_error_that_names_the_setting(
    file: ModelFile, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match=r"context_memory_mb \(ASTEADY_CONTEXT_MEMORY_MB\)"):
        probe_report(file, EngineOptions(context_bytes=2**20), tmp_path)
    assert width_report(file, EngineOptions(), tmp_path) is None


def test_a_probe_returns_the_memory_that_it_took(
    file: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = ContextMemory(2**30)
    used = []

    def noted(entries: Sequence[Any], logits: list[bytes]) -> list[bytes]:
        used.append(memory.used_bytes)
        return logits

    change_steps(monkeypatch, noted)
    engine = load_engine(file, EngineOptions(), tmp_path, cores=Cores(1), memory=memory)
    engine.probe()
    engine.close()
    assert set(used) == {8 * 768 * file.header.kv_bytes_per_token}
    assert memory.used_bytes == 0


# The probe of an engine that is in use.


class Probing:
    """An engine whose probe stops before its first step of two, until `go_on`."""

    def __init__(self, file: ModelFile, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file = file
        self.cache_dir = cache_dir
        self.reached = threading.Event()
        self.go_on = threading.Event()
        self.error: Exception | None = None
        original: Step = Probe._step

        def step(probe: Probe, entries: Sequence[tuple[int, int, int]]) -> list[bytes]:
            if len(entries) == 2:
                self.reached.set()
                assert self.go_on.wait(60)
                if self.error is not None:
                    raise self.error
            return original(probe, entries)

        monkeypatch.setattr(Probe, "_step", step)
        self.engine = load_engine(file, EngineOptions(), cache_dir)


@pytest.fixture
def probing(file: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Probing:
    return Probing(file, tmp_path, monkeypatch)


@pytest.mark.anyio
async def test_requests_that_wait_make_the_pool_wider(
    probing: Probing, open_pool: OpenPool
) -> None:
    expected = alone(probing.file, probing.cache_dir)
    pool = open_pool(probing.engine, 1, 100)
    # One alone waits for nobody.
    assert digest(await pool.run(requests()[0])) == expected[0]
    assert probing.engine.width == 1
    assert not probing.reached.is_set()

    tasks = [asyncio.ensure_future(pool.run(request)) for request in requests()]
    assert await asyncio.to_thread(probing.reached.wait, 60)
    # The probe keeps nobody.
    assert digest(await tasks[0]) == expected[0]
    assert pool.statistics().width == 1
    more = [asyncio.ensure_future(pool.run(request)) for request in requests()]
    probing.go_on.set()
    answers = await asyncio.gather(*tasks, *more)
    assert [digest(answer) for answer in answers] == expected * 2
    await asyncio.to_thread(join_probe)
    report = width_report(probing.file, EngineOptions(), probing.cache_dir)
    assert report is not None
    assert pool.statistics().width == report.width > 1
    answers = await asyncio.gather(*[pool.run(request) for request in requests()])
    assert [digest(answer) for answer in answers] == expected
    # The next engine knows it from the beginning.
    again = load_engine(probing.file, EngineOptions(), probing.cache_dir)
    assert again.width == report.width
    assert again.fingerprint == probing.engine.fingerprint
    again.close()


def test_widened_is_called_once_and_after_the_width_has_grown(probing: Probing) -> None:
    probing.go_on.set()
    done = threading.Event()
    widths = []

    def widened() -> None:
        widths.append(probing.engine.width)
        done.set()

    probing.engine.widen(widened)
    probing.engine.widen(widened)
    assert done.wait(60)
    probing.engine.close()
    probing.engine.widen(widened)
    assert widths == [probing.engine.width]
    report = width_report(probing.file, EngineOptions(), probing.cache_dir)
    assert report is not None
    assert report.width == widths[0]


def test_an_engine_whose_width_is_known_does_not_probe(
    file: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Probe, "run", lambda _: report_of(3))
    probe_report(file, EngineOptions(), tmp_path)
    monkeypatch.setattr(engine_module, "Probe", None)
    for options in (EngineOptions(), EngineOptions(probe=False)):
        engine = load_engine(file, options, tmp_path)
        engine.widen(lambda: None)
        assert engine.width == (3 if options.probe else 1)
        engine.close()


def test_a_probe_that_fails_is_logged_and_the_width_stays(
    probing: Probing, caplog: pytest.LogCaptureFixture
) -> None:
    probing.error = EngineError("no luck")
    probing.go_on.set()
    called = []
    probing.engine.widen(lambda: called.append(True))
    join_probe()
    assert "one sequence per step" in caplog.text
    assert "no luck" in caplog.text
    assert (probing.engine.width, called) == (1, [])
    assert width_report(probing.file, EngineOptions(), probing.cache_dir) is None
    assert len(together(probing.engine, requests()[:3])) == 3
    probing.engine.close()


def test_a_probe_without_memory_leaves_the_width(
    file: ModelFile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = load_engine(file, EngineOptions(context_bytes=2**19), tmp_path)
    called = []
    engine.widen(lambda: called.append(True))
    join_probe()
    assert (engine.width, called) == (1, [])
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    engine.close()


def join_probe() -> None:
    for thread in threading.enumerate():
        if thread.name == "asteady-probe":
            thread.join(60)


def test_closing_the_engine_stops_its_probe(probing: Probing) -> None:
    called = []
    probing.engine.widen(lambda: called.append(True))
    assert probing.reached.wait(60)
    closing = threading.Thread(target=probing.engine.close)
    closing.start()
    # As soon as it is told to stop, which is before its thread is waited for.
    while not probing_is_stopped(probing.engine):
        closing.join(0.001)
    probing.go_on.set()
    closing.join(60)
    assert not closing.is_alive()
    assert (probing.engine.width, called) == (1, [])
    assert width_report(probing.file, EngineOptions(), probing.cache_dir) is None


def probing_is_stopped(engine: LlamaEngine) -> bool:
    probe = engine._probe
    assert probe is not None
    return 0 in probe._interruptions


def test_a_stopped_probe_returns_its_memory_and_no_report(file: ModelFile, tmp_path: Path) -> None:
    engine = load(tmp_path, str(file.path))
    loaded = engine._loaded
    assert loaded is not None
    probe = Probe(loaded, engine.vocab, 8)
    probe.stop()
    assert probe.run() is None
    assert loaded.memory.used_bytes == 0
    engine.close()


# Plans.


@pytest.mark.parametrize(
    ("types", "repacked"),
    [
        (("Q8_0",), True),
        (("Q4_0",), True),
        (("Q4_0", "Q8_0"), True),
        (("Q4_1", "Q8_0"), False),
        (("Q4_K", "Q6_K"), False),
        (("F32",), False),
        ((), False),
    ],
)
def test_which_weights_are_repacked(types: tuple[str, ...], repacked: bool) -> None:
    system = "CPU : AVX512 = 1 | "
    assert repacks(types, system, EngineOptions()) is repacked
    assert not repacks(types, system, EngineOptions(gpu_layers=1))


def test_a_build_that_announces_amx_is_never_given_repacked_weights(
    file: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = {"libraries": "x", "version": "x", "system": "CPU : AVX512 = 1 | AMX_INT8 = 1 | "}
    monkeypatch.setattr(loader, "build_of", lambda _: build)
    engine = load_engine(file, EngineOptions(), tmp_path)
    assert not engine.setup.repack
    engine.close()
    assert not repacks(("Q8_0",), build["system"], EngineOptions())


@pytest.mark.parametrize(
    ("count", "step_s", "calls"),
    [
        (0, (1.0, 1.0), ()),
        (1, (1.0, 1.0), (1,)),
        (2, (1.0, 1.2), (2,)),
        (2, (1.0, 2.6), (2,)),
        (2, (1.0, 2.7), (1, 1)),
        (2, (1.0, 3.0), (1, 1)),
        (3, (1.0, 1.5, 4.0), (2, 1)),
        (4, (1.0, 3.0, 3.5, 4.0), (4,)),
        (5, (1.0, 3.0, 3.5, 4.0, 9.0), (1, 1, 1, 1, 1)),
        (5, (2.0, 3.0, 4.5, 4.1, 9.0), (4, 1)),
        (3, (1.0, 3.0), (3,)),
        (3, (), (3,)),
        (3, (None, 2.0, 9.0), (3,)),
        (4, (None, 2.0, None, 9.0), (2, 2)),
        (4, (1.0, None, None, 9.0), (1, 1, 1, 1)),
    ],
)
def test_a_step_is_divided_into_the_fastest_calls(
    count: int, step_s: tuple[float | None, ...], calls: tuple[int, ...]
) -> None:
    assert divide(count, dict(enumerate(step_s, 1)).get) == calls


def test_how_a_step_is_divided_changes_no_bit(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asteady._engine.llama import generate

    chosen = [request for request in requests() if len(request.prompt or "") < 900]
    single = load(models, "gpt2.gguf", setup=Setup(width=1, repack=True))
    expected = [digest(together(single, [request])[0]) for request in chosen]
    single.close()
    sizes = []

    def divided(count: int, step_s: object) -> tuple[int, ...]:
        sizes.append(count)
        return (*(2,) * (count // 2), *(1,) * (count % 2))

    monkeypatch.setattr(generate, "divide", divided)
    engine = load(models, "gpt2.gguf", setup=Setup(width=8, repack=True))
    assert [digest(answer) for answer in together(engine, chosen)] == expected
    assert max(sizes) == 8
    engine.close()


def shape(last: RoomShape | None = None, **changes: int) -> RoomShape:
    values = {
        "needed_tokens": 100,
        "busy": 0,
        "context_tokens": 8192,
        "kv_bytes": 2**14,
        "weights_bytes": 0,
        **changes,
    }
    return room_shape(last, **values)


def test_a_room_begins_small_and_its_sequences_double_in_length() -> None:
    assert shape() == RoomShape(sequences=8, tokens=1024)
    assert shape(needed_tokens=1024).tokens == 1024
    assert shape(needed_tokens=1025).tokens == 2048
    assert shape(needed_tokens=5000).tokens == 8192
    assert shape(RoomShape(sequences=4, tokens=4096)).tokens == 4096
    # The model's context is the most, in units of 256.
    assert shape(context_tokens=700).tokens == 768
    assert shape(context_tokens=1500, needed_tokens=1500).tokens == 1536


def test_a_room_has_as_many_sequences_as_its_memory_allows() -> None:
    # 128 MB.
    assert shape(needed_tokens=8192).sequences == 1
    assert shape(needed_tokens=4096).sequences == 2
    assert shape(kv_bytes=1).sequences == 8
    # Or half of the weights.
    assert shape(needed_tokens=8192, weights_bytes=2**30).sequences == 4
    # For those that run already there is a place in any case.
    assert [shape(kv_bytes=2**24, busy=busy).sequences for busy in (0, 1, 2, 3, 4, 7)] == [
        1,
        2,
        4,
        4,
        8,
        8,
    ]
    assert shape(busy=8).sequences == 16


def test_a_room_of_the_same_length_never_gets_fewer_sequences() -> None:
    last = RoomShape(sequences=16, tokens=1024)
    assert shape(last) == last
    assert shape(last, needed_tokens=2000) == RoomShape(sequences=4, tokens=2048)
