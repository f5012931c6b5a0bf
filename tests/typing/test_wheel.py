"""A user's program, checked by mypy and pyright against the installed wheel."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """\
import asyncio

import asteady
import asteady.blocking
import asteady.operate
import asteady.testing
from asteady import Session, Settings


async def main() -> None:
    async with Session(workers=2, cache_dir="x") as session:
        reveal_type(session)
        reveal_type(await session.generate("hi", seed=1))
        reveal_type(await session.complete("hi"))
        reveal_type(await session.embed("hi"))
        reveal_type(session.stream("hi"))
        async with session.stream("hi") as stream:
            async for chunk in stream:
                reveal_type(chunk)
        reveal_type(await session.cache.generation.entries())
        reveal_type(await session.warm(["a"], seeds=[1]))
        reveal_type(session.namespace("a/b"))
        reveal_type(await asteady.operate.verify(session))
        reveal_type(await asteady.generate("hi"))
    reveal_type(asteady.blocking.generate("hi"))
    reveal_type(asteady.blocking.Session().cache)
    reveal_type(asteady.testing.FakeEngine())
    reveal_type(Settings(workers=3).cache_policy)
    Session(wrokers=3)
    Settings(wrokers=3)
    await asteady.generate("hi", sede=1)
    reveal_type(Reply(answer=asteady.Completion.from_dict({})).answer.as_dict())
    reveal_type(dict(Reply.model_validate({}).answer))


from pydantic import BaseModel


class Reply(BaseModel):
    answer: asteady.Completion


asyncio.run(main())
"""

# By line of the program: the type, without the modules of its names.
TYPES = {
    12: "Session",
    13: "str",
    14: "Completion",
    15: "ndarray[tuple[Any, ...], dtype[float32]]",
    16: "Stream",
    19: "str",
    20: "list[Entry]",
    21: "WarmReport",
    22: "Namespace",
    23: "VerifyReport",
    24: "str",
    25: "str",
    26: "CacheManager",
    27: "FakeEngine",
    28: "Literal['tide', 'lru', 'lfu']",
    32: "dict[str, Any]",
    33: "dict[str, Any]",
}
ERRORS = {29, 30, 31}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="hatchling builds the wheel")
    directory = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and with the dependencies of this one."""
    directory = tmp_path_factory.mktemp("environment")
    venv.create(directory, with_pip=False)
    python = directory / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    home = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(home)
    # A directory that a .pth file adds has its own .pth files ignored, and so this checkout.
    Path(home, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def without_modules(shown: str) -> str:
    """The type without the modules of its names, and with the names of both checkers."""
    shown = re.sub(r"[\w.]+\.(?=\w)", "", shown).replace("builtins.", "")
    for said, means in (
        ("floating[_32Bit]", "float32"),
        ("_AnyShape", "tuple[Any, ...]"),
        ("'] | Literal['", "', '"),
    ):
        shown = shown.replace(said, means)
    return shown


def test_the_wheel_says_that_it_is_typed_and_has_no_training(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "asteady/py.typed" in names
    assert "asteady/models/generate.gguf" in names
    assert not [name for name in names if "training" in name or not name.startswith("asteady")]


def test_mypy_knows_every_type_of_the_wheel(python: Path, program: Path) -> None:
    pytest.importorskip("mypy")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--python-executable", str(python)),
            *("--no-error-summary", "--hide-error-context", str(program)),
        ],
        cwd=program.parent,
        capture_output=True,
        text=True,
        check=False,
        env=clean_environment(),
    )
    shown, errors = {}, set()
    for line in done.stdout.splitlines():
        found = re.match(r"program\.py:(\d+): (note|error): (.*)", line)
        assert found is not None, done.stdout + done.stderr
        number, kind, message = int(found[1]), found[2], found[3]
        if kind == "error":
            errors.add(number)
        elif message.startswith("Revealed type is"):
            shown[number] = without_modules(message.split('"')[1])
    assert shown == TYPES
    assert errors == ERRORS


def test_pyright_knows_every_type_of_the_wheel(python: Path, program: Path) -> None:
    pytest.importorskip("pyright")
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", str(python), "--outputjson", program],
        cwd=program.parent,
        capture_output=True,
        text=True,
        check=False,
        env=clean_environment(),
    )
    if not done.stdout.startswith("{"):
        pytest.skip(f"pyright could not be started: {done.stderr.strip()[-200:]}")
    shown, errors = {}, set()
    for found in json.loads(done.stdout)["generalDiagnostics"]:
        number = found["range"]["start"]["line"] + 1
        if found["severity"] == "error":
            errors.add(number)
        elif found["message"].startswith("Type of"):
            shown[number] = without_modules(found["message"].rsplit(" is ", 1)[1].strip('"'))
    assert shown == TYPES
    assert errors == ERRORS
