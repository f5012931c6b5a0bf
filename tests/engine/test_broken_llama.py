"""A llama-cpp-python that cannot be imported: the first call says why, and what to do about it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import llama_cpp
import pytest

from asteady._engine.build import LLAMA_REQUIREMENT, REBUILD

ROOT = Path(__file__).parents[2]


def run(site: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """The exit code of a command, and the last line it wrote to standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "asteady", *arguments],
        env={**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}", **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.splitlines()[-1]


def package(site: Path, program: str, *, lib: bool = True) -> Path:
    """A package llama_cpp that does this when it is imported."""
    folder = site / "llama_cpp"
    (folder / "lib" if lib else folder).mkdir(parents=True)
    (folder / "__init__.py").write_text(program)
    return site


@pytest.mark.parametrize(
    ("program", "reason", "remedy"),
    [
        (
            "raise RuntimeError('Failed to load shared library: libgomp.so.1: cannot open shared"
            " object file: No such file or directory')",
            "libgomp.so.1",
            "apt-get install libgomp1",
        ),
        (
            "raise RuntimeError('libcudart.so.12: cannot open shared object file: No such file')",
            "libcudart.so.12",
            f"install that library, or compile llama.cpp for this machine: {REBUILD}",
        ),
        (
            "raise RuntimeError('Failed to load shared library: version `GLIBC_2.99` not found')",
            "GLIBC_2.99",
            f"compile it for this machine: {REBUILD}",
        ),
        ("import diskcache_of_nobody", "diskcache_of_nobody", f'pip install "{LLAMA_REQUIREMENT}"'),
        ("raise AttributeError('undefined symbol: llama_x')", "undefined symbol: llama_x", REBUILD),
    ],
)
def test_the_first_call_names_the_reason_and_the_remedy(
    program: str, reason: str, remedy: str, tmp_path: Path
) -> None:
    site = package(tmp_path / "site", program)
    code, said = run(site, "generate", "hello")
    assert code == 1
    assert said.startswith("asteady: llama.cpp cannot be loaded: ")
    assert reason in said
    assert said.endswith(remedy) or "libgomp" in said
    assert remedy in said


def test_a_package_without_its_libraries_is_to_be_compiled(tmp_path: Path) -> None:
    code, said = run(package(tmp_path / "site", "", lib=False), "generate", "hello")
    assert (code, said.endswith(REBUILD)) == (1, True)


def test_a_wrong_folder_of_libraries_is_named(tmp_path: Path) -> None:
    code, said = run(tmp_path, "generate", "hello", LLAMA_CPP_LIB_PATH=str(tmp_path / "nowhere"))
    assert code == 1
    assert "LLAMA_CPP_LIB_PATH must be the folder" in said


@pytest.mark.skipif(sys.platform != "linux", reason="names of libraries as on Linux")
def test_a_library_that_is_really_missing_is_named(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(Path(llama_cpp.__file__).parent, tmp_path / "llama_cpp"))
    for library in (copy / "lib").glob("libggml-base*"):
        library.unlink()
    code, said = run(tmp_path, "generate", "hello")
    assert code == 1
    assert "libggml-base" in said
    assert REBUILD in said


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGILL")
def test_a_build_for_another_cpu_is_found_by_models_check(tmp_path: Path) -> None:
    program = "import os, signal\nos.kill(os.getpid(), signal.SIGILL)"
    code, said = run(package(tmp_path / "site", program), "models", "check", "builtin")
    assert code == 1
    assert "SIGILL" in said
    assert said.endswith(REBUILD)


def test_the_commands_install_what_the_package_requires() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert LLAMA_REQUIREMENT in project["dependencies"]
