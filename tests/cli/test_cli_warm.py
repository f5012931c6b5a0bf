"""``asteady warm``, as a process of its own, and its progress."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.terminal import COUNTED, Terminal, shown
from tests.cli.test_cli import run


def test_a_file_is_warmed_and_the_second_time_skipped(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('"one"\n{"prompt": "two", "seed": 7}\n')
    first = run("warm", str(file), "--max-new-tokens", "3")
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("warmed 2, already cached 0, failed 0, skipped for time 0, in ")
    assert first.stderr == ""
    second = json.loads(run("warm", "-", "--max-new-tokens", "3", "--json", stdin='"one"\n').stdout)
    assert (second["warmed"], second["already_cached"]) == (0, 1)


def test_failures_are_one_line_each_and_exit_code_1(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": ""}\n"one"\n')
    done = run("warm", str(file), "--max-new-tokens", "3", "--seed", "1", "--seed", "2")
    assert done.returncode == 1
    assert done.stdout.startswith("warmed 2, already cached 0, failed 2")
    assert done.stderr.count("\n") == 2
    assert done.stderr.startswith("asteady: line 1 (")
    missing = run("warm", str(tmp_path / "missing"))
    assert missing.returncode == 1
    assert missing.stderr.count("\n") == 1


@pytest.mark.parametrize("plain", ["", "1"])
def test_progress_is_a_bar_on_a_terminal(plain: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('"one"\n"two"\n')
    terminal = Terminal(COUNTED, "warm", str(file), "--max-new-tokens", "2", PLAIN=plain)
    code, stdout = terminal.finish()
    assert code == 0
    assert stdout.startswith("warmed 2, ")
    assert "\rasteady: warming " in terminal.text
    assert "1 of 2" in terminal.text
    assert ("#####" in terminal.text) == bool(plain)
    assert shown(terminal.said) == []
