"""Layers for a GPU: refused where the build has none, and handed to llama.cpp where it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama_cpp
import pytest

from asteady import Session, Settings
from asteady._base.errors import EngineError, SettingsError
from asteady._engine.loader import load_engine, probe_report
from asteady._engine.models.resolve import ModelFile, resolve_model
from asteady._engine.plan import EngineOptions, Setup


@pytest.fixture
def file(tmp_path: Path) -> ModelFile:
    return resolve_model("builtin", kind="generation", cache_dir=tmp_path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The layers asked of llama.cpp, which believes that it can offload. Without a GPU it then
    computes them on the CPU."""
    seen: list[int] = []
    load = llama_cpp.llama_model_load_from_file

    def loading(path: bytes, parameters: Any) -> Any:
        seen.append(parameters.n_gpu_layers)
        return load(path, parameters)

    monkeypatch.setattr(llama_cpp, "llama_supports_gpu_offload", lambda: True)
    monkeypatch.setattr(llama_cpp, "llama_model_load_from_file", loading)
    return seen


needs_cpu_build = pytest.mark.skipif(
    llama_cpp.llama_supports_gpu_offload(), reason="this build can offload"
)


@needs_cpu_build
def test_a_build_without_a_gpu_refuses_layers_for_one(file: ModelFile, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"gpu_layers=5 is not possible: .* or set gpu_layers=0"):
        load_engine(file, EngineOptions(gpu_layers=5), tmp_path, Setup())


@needs_cpu_build
@pytest.mark.anyio
async def test_a_session_says_so_at_the_first_call_and_can_be_closed() -> None:
    async with Session(gpu_layers=-1) as session:
        with pytest.raises(EngineError, match="gpu_layers=-1 is not possible"):
            await session.generate("hi")


@pytest.mark.parametrize(("layers", "number"), [(0, 0), (7, 7), (-1, 2**31 - 1)])
def test_the_layers_reach_llama_cpp(
    file: ModelFile, tmp_path: Path, asked: list[int], layers: int, number: int
) -> None:
    load_engine(file, EngineOptions(gpu_layers=layers), tmp_path, Setup()).close()
    assert asked == [number]


def test_the_probe_runs_with_them_and_is_remembered_apart(
    file: ModelFile, tmp_path: Path, asked: list[int]
) -> None:
    for layers in (0, 3, 3, 0):
        report = probe_report(file, EngineOptions(gpu_layers=layers, batch_width=2), tmp_path)
        assert [result.width for result in report.widths] == [1, 2]
    assert asked == [0, 3]


def test_the_setting_is_read_and_bounded() -> None:
    assert Settings().gpu_layers == 0
    assert Settings.from_environment(environ={"ASTEADY_GPU_LAYERS": "-1"}).gpu_layers == -1
    assert EngineOptions.of(Settings(gpu_layers=12)).gpu_layers == 12
    with pytest.raises(SettingsError, match="gpu_layers=-2 is not allowed"):
        Settings(gpu_layers=-2)
