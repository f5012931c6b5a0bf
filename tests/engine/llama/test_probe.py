"""The probe: what may be computed together, remembered, and used."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import attrs
import llama_cpp
import pytest

from asteady import Session
from asteady._base.errors import EngineError
from asteady._base.requests import GenerateRequest
from asteady._engine import loader
from asteady._engine.llama import probe as probing
from asteady._engine.llama.lib import load_model
from asteady._engine.llama.probe import Bench
from asteady._engine.loader import fingerprint_of, load_engine, probe_report
from asteady._engine.models.opened import OpenModel
from asteady._engine.models.resolve import ModelFile, resolve_model
from asteady._engine.plan import (
    EngineOptions,
    LayoutResult,
    ProbeReport,
    Setup,
    WidthResult,
    choose,
    divide,
)
from tests.engine.conftest import load
from tests.engine.driving import digest, together
from tests.engine.pooled import OpenPool
from tests.gguf_files import Weights, write_llama


@pytest.fixture
def file(models: Path) -> ModelFile:
    return resolve_model(str(models / "gpt2.gguf"), kind="generation", cache_dir=models)


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


@pytest.mark.anyio
@pytest.mark.parametrize("weights", ["Q8_0", "Q4_0", "F32"])
async def test_what_the_probe_allows_changes_no_bit(
    tmp_path: Path, weights: Weights, open_pool: OpenPool
) -> None:
    """Whatever this build and CPU allow, together gives the same bits as alone."""
    path = write_llama(tmp_path / "model.gguf", weights=weights, context=2048, width=128)
    file = resolve_model(str(path), kind="generation", cache_dir=tmp_path)
    engine = load_engine(file, EngineOptions(), tmp_path)
    assert engine.width == engine.setup.width
    if weights == "F32":
        assert engine.setup == Setup(width=1, repack=False)
    single = load_engine(file, EngineOptions(), tmp_path, attrs.evolve(engine.setup, width=1))
    alone = [digest(together(single, [request])[0]) for request in requests()]
    single.close()
    assert [digest(answer) for answer in together(engine, requests())] == alone
    pool = open_pool(engine, 2, 100)
    answers = await asyncio.gather(*[pool.run(request) for request in requests() * 3])
    assert [digest(answer) for answer in answers] == alone * 3


def test_the_probe_finds_the_first_width_that_differs(
    file: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Bench.step

    def flawed(self: Bench, entries: Sequence[tuple[int, int, int]]) -> list[bytes]:
        logits = original(self, entries)
        if len(entries) == 4:
            # One bit of one logit of one sequence.
            last = bytearray(logits[-1])
            last[77] ^= 1
            logits[-1] = bytes(last)
        return logits

    monkeypatch.setattr(Bench, "step", flawed)
    report = probe_report(file, EngineOptions(), tmp_path)
    for layout in report.layouts:
        assert [(result.width, result.equal) for result in layout.widths] == [
            (1, True),
            (2, True),
            (3, True),
            (4, False),
        ]
        assert all(result.step_s > 0 for result in layout.widths)
    assert report.setup.width == 3
    assert 0 < report.took_s < 10


@pytest.mark.parametrize("step", [0, 2, 3, 5])
def test_a_difference_at_any_step_is_seen(
    file: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    original = Bench.step
    calls = []

    def flawed(self: Bench, entries: Sequence[tuple[int, int, int]]) -> list[bytes]:
        logits = original(self, entries)
        if len(entries) == 2:
            calls.append(entries)
            # Of two groups of steps.
            if (len(calls) - 1) % (2 * probing.STEPS) == step:
                logits[0] = logits[0][:-1] + bytes([logits[0][-1] ^ 128])
        return logits

    monkeypatch.setattr(Bench, "step", flawed)
    assert probe_report(file, EngineOptions(), tmp_path).setup.width == 1


def test_the_probe_goes_past_512_positions(
    file: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Bench.step
    seen = []

    def noted(self: Bench, entries: Sequence[tuple[int, int, int]]) -> list[bytes]:
        seen.append([position for _, _, position in entries])
        return original(self, entries)

    monkeypatch.setattr(Bench, "step", noted)
    assert probe_report(file, EngineOptions(), tmp_path).setup.width > 1
    for width in range(2, 9):
        positions = [step for step in seen if len(step) == width]
        assert any(max(step) > 512 for step in positions)
        assert any(min(step) < 100 for step in positions)
    # The long ones at both ends, and one group of two without any.
    assert any(len(step) == 2 and max(step) < 256 for step in seen)


def test_a_short_context_is_probed_within_its_bounds(models: Path, tmp_path: Path) -> None:
    file = resolve_model(str(models / "short.gguf"), kind="generation", cache_dir=models)
    assert probe_report(file, EngineOptions(), tmp_path).layouts


def test_a_probe_is_remembered_by_model_build_and_limit(
    file: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    original = probing.probe

    def counted(file, limit, threads, **more):  # type: ignore[no-untyped-def]
        runs.append(limit)
        return original(file, limit, threads, **more)

    monkeypatch.setattr(probing, "probe", counted)
    first = probe_report(file, EngineOptions(), tmp_path)
    assert probe_report(file, EngineOptions(threads=2), tmp_path) == first
    assert runs == [8]
    assert probe_report(file, EngineOptions(batch_width=2), tmp_path).setup.width <= 2
    assert runs == [8, 2]
    probe_report(attrs.evolve(file, sha256="1" * 64), EngineOptions(), tmp_path)
    assert runs == [8, 2, 8]
    monkeypatch.setattr(
        loader, "build_of", lambda _: {"libraries": "x", "version": "x", "system": "x"}
    )
    probe_report(file, EngineOptions(), tmp_path)
    assert runs == [8, 2, 8, 8]


@pytest.mark.parametrize(
    "spoiled",
    [
        None,
        7,
        {},
        {"setup": {"width": 8, "repack": False}, "layouts": [], "reason": "", "took_s": 0},
        {
            "setup": {"width": 8, "repack": False},
            "layouts": [{"repack": False, "widths": [{"width": 1, "equal": True, "step_s": 1}]}],
            "reason": "",
            "took_s": 0,
        },
    ],
)
def test_a_spoiled_memory_is_probed_anew(file: ModelFile, tmp_path: Path, spoiled: object) -> None:
    first = probe_report(file, EngineOptions(), tmp_path)
    memory = tmp_path / "probes.json"
    (key,) = json.loads(memory.read_text())
    memory.write_text(json.dumps({key: spoiled}))
    again = probe_report(file, EngineOptions(), tmp_path)
    assert again.setup == first.setup
    assert again.layouts


@pytest.mark.anyio
async def test_a_session_can_do_without_the_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASTEADY_PROBE", "0")
    with monkeypatch.context() as patched:
        patched.setattr(probing, "probe", None)
        async with Session(cache_dir=tmp_path, workers=1) as session:
            assert not session.settings.probe
            skipped = await session.complete("hi", max_new_tokens=4)
            assert session.statistics().pools["generation:builtin"].width == 1
    assert not (tmp_path / "probes.json").exists()
    file = resolve_model("builtin", kind="generation", cache_dir=tmp_path)
    alone = fingerprint_of(file, EngineOptions(), tmp_path, Setup())
    assert skipped.fingerprint == alone
    async with Session(cache_dir=tmp_path, workers=1, probe=True) as session:
        probed = await session.complete("hi", max_new_tokens=4)
        width = session.statistics().pools["generation:builtin"].width
    found = probe_report(file, EngineOptions(), tmp_path).setup
    assert (width, probed.fingerprint == alone) == (found.width, found == Setup())


def test_what_needs_no_probe_is_not_loaded(
    models: Path, file: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "load_model", None)
    bert = resolve_model(str(models / "bert.gguf"), kind="embedding", cache_dir=models)
    floats = attrs.evolve(file, header=attrs.evolve(file.header, matrix_types=("F16", "F32")))
    reports = {
        "one at a time": probe_report(bert, EngineOptions(), tmp_path),
        "switched off": probe_report(file, EngineOptions(probe=False), tmp_path),
        "F16/F32 weights differ": probe_report(floats, EngineOptions(), tmp_path),
    }
    for reason, report in reports.items():
        assert report == ProbeReport(setup=Setup(), reason=report.reason)
        assert reason in report.reason


def test_a_build_that_announces_amx_is_never_given_repacked_weights(
    file: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    original = load_model

    def noted(files: OpenModel, *, repack: bool, gpu_layers: int) -> object:
        loaded.append(repack)
        return original(files, repack=False)

    monkeypatch.setattr(probing, "load_model", noted)
    system = "CPU : AVX512 = 1 | AMX_INT8 = 1 | "
    monkeypatch.setattr(loader, "build_of", lambda _: {"system": system})
    report = probe_report(file, EngineOptions(), tmp_path)
    assert loaded == [False]
    assert not report.setup.repack
    loaded.clear()
    monkeypatch.setattr(loader, "build_of", lambda _: {"system": "CPU : AVX512 = 1 | "})
    report = probe_report(file, EngineOptions(), tmp_path)
    assert loaded == [False, True]
    # Both were the same computation here, so there is one layout to choose from.
    assert [layout.repack for layout in report.layouts] == [False]


def test_a_model_whose_state_cannot_be_wound_back_runs_alone(
    file: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_cpp, "llama_model_is_recurrent", lambda _: True)
    report = probe_report(file, EngineOptions(), tmp_path)
    assert report.setup.width == 1
    assert [len(layout.widths) for layout in report.layouts] == [1] * len(report.layouts)


def test_a_state_that_cannot_be_copied_is_an_error(
    file: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_cpp, "llama_state_seq_set_data", lambda *_: 0)
    with pytest.raises(EngineError, match="state"):
        probe_report(file, EngineOptions(), tmp_path)


def layout(repack: bool, width: int) -> LayoutResult:
    results = [WidthResult(width=one, equal=True, step_s=1) for one in range(1, width + 1)]
    results.append(WidthResult(width=width + 1, equal=False, step_s=1))
    return LayoutResult(repack=repack, widths=tuple(results))


@pytest.mark.parametrize(
    ("plain", "repacked", "chosen"),
    [
        (8, 8, Setup(width=8, repack=True)),
        (1, 1, Setup(width=1, repack=True)),
        (3, 2, Setup(width=3, repack=False)),
        (8, 3, Setup(width=8, repack=False)),
        (8, 5, Setup(width=5, repack=True)),
        (12, 12, Setup(width=12, repack=True)),
    ],
)
def test_the_layout_is_chosen_by_the_table(plain: int, repacked: int, chosen: Setup) -> None:
    assert choose((layout(False, plain), layout(True, repacked))) == chosen
    assert choose((layout(False, plain),)) == Setup(width=plain)


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
    ],
)
def test_a_step_is_divided_into_the_fastest_calls(
    count: int, step_s: tuple[float, ...], calls: tuple[int, ...]
) -> None:
    assert divide(count, step_s) == calls


@pytest.mark.parametrize("step_s", [(1.0,) * 8, (1.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0)])
def test_how_a_step_is_divided_changes_no_bit(models: Path, step_s: tuple[float, ...]) -> None:
    engine = load(models, "gpt2.gguf", setup=Setup(width=8, step_s=step_s))
    single = load(models, "gpt2.gguf", setup=Setup(width=1))
    chosen = [request for request in requests() if len(request.prompt or "") < 900]
    expected = [digest(together(single, [request])[0]) for request in chosen]
    assert [digest(answer) for answer in together(engine, chosen)] == expected
    engine.close()
    single.close()


def test_the_width_of_a_large_model_is_bounded_by_memory(file: ModelFile) -> None:
    header = file.header
    assert header.kv_bytes_per_token == 2 * 2 * (16 + 16) * 2
    for width in (8, 64):
        options = EngineOptions(batch_width=width)
        assert options.width_limit(header.kv_bytes_per_token, header.context_length) == width
    options = EngineOptions()
    assert options.width_limit(32 * 1024, 10**6) == 8
    assert options.width_limit(128 * 1024, 10**6) == 2
    assert options.width_limit(10**7, 10**6) == 1
    assert options.width_limit(0, 10**6) == 8


def test_the_engine_uses_what_was_probed(models: Path, file: ModelFile) -> None:
    expected = probe_report(file, EngineOptions(), models).setup
    engine = load(models, "gpt2.gguf", EngineOptions())
    assert engine.setup == expected
    worker = engine.open_worker()
    slots = [worker.admit(engine.prepare(request)) for request in requests()[: expected.width]]
    assert len(set(slots)) == engine.width == expected.width
    worker.close()
    engine.close()
