"""The build of llama.cpp: what is loaded, and not what lies on the disk by then."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import llama_cpp
import pytest

BUILD = """
import sys
from pathlib import Path
from asteady._engine.loader import build_of
print(build_of(Path(sys.argv[1]))["libraries"])
"""

STAYS = """
import os, shutil, sys
from pathlib import Path
from asteady._base.errors import EngineError
from asteady._engine.loader import build_of

caches, library = map(Path, sys.argv[1:])
def replace():
    shutil.copy(library, library.with_suffix(".new"))
    os.replace(library.with_suffix(".new"), library)

# Of libraries that are only known by name, those on the disk count.
before = build_of(caches)
import asteady._engine.llama.lib
assert build_of(caches) == before
replace()
assert build_of(caches) == before
# As in a process that has loaded them and never asked.
import asteady._engine.loader as loader
loader._loaded_build = None
try:
    build_of(caches)
except EngineError as exc:
    print(exc)
"""

LOADED_BEFORE = """
import os, shutil, sys
from pathlib import Path
import llama_cpp
from asteady._base.errors import EngineError
from asteady._engine.loader import build_of

caches, library = map(Path, sys.argv[1:])
shutil.copy(library, library.with_suffix(".new"))
os.replace(library.with_suffix(".new"), library)
for _ in range(2):
    try:
        build_of(caches)
    except EngineError as exc:
        print(exc)
assert not list(caches.glob("*.json"))
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One library of a copy of llama.cpp's, the one that computes."""
    folder = Path(llama_cpp.__file__).parent / "lib"
    copy = Path(shutil.copytree(folder, tmp_path / "lib"))
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(copy))
    named = [path for path in copy.iterdir() if path.name.startswith("libggml-cpu")]
    return sorted(named, key=lambda path: path.name)[min(1, len(named) - 1)]


def run(program: str, *arguments: Path) -> str:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_library_of_the_same_size_and_time_is_another_build(
    library: Path, tmp_path: Path
) -> None:
    first = run(BUILD, tmp_path)
    assert run(BUILD, tmp_path) == first
    data = library.read_bytes()
    if b"GCC: (" not in data:
        pytest.skip("a byte that nothing reads is known of GCC's libraries only")
    status = library.stat()
    # The compiler's name, which nothing reads.
    library.write_bytes(data.replace(b"GCC: (", b"gcc: ("))
    os.utime(library, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert library.stat().st_size == status.st_size
    assert run(BUILD, tmp_path) != first


def test_a_process_stays_with_the_libraries_that_it_has_loaded(
    library: Path, tmp_path: Path
) -> None:
    assert "replaced after this process had loaded it: start it again" in run(
        STAYS, tmp_path, library
    )


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which files are loaded")
def test_what_another_user_of_llama_cpp_loaded_is_not_taken_for_the_libraries_of_now(
    library: Path, tmp_path: Path
) -> None:
    told = "llama-cpp-python was replaced after this process had loaded it: start it again"
    assert run(LOADED_BEFORE, tmp_path, library).splitlines() == [told, told]
