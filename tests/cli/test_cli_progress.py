"""What commands say on a terminal, a real pseudo-terminal where it matters."""

from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest

from asteady import Activity
from asteady.cli._progress import Status, plain_line, rich_line, status_of, status_of_count
from tests.cli.terminal import AT_ONCE, SEQUENCE, STUCK, Terminal, shown


@pytest.fixture(params=["rich", "plain"])
def look(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With rich and without it."""
    if request.param == "rich":
        pytest.importorskip("rich")
    else:
        monkeypatch.setenv("PLAIN", "1")
    return str(request.param)


_ARGUMENTS = ("generate", "Write a haiku about caching", "--max-new-tokens", "5")


def test_the_line_vanishes_and_one_line_says_how_it_went(look: str) -> None:
    terminal = Terminal(AT_ONCE, *_ARGUMENTS)
    code, stdout = terminal.finish()
    assert code == 0
    assert "\rasteady: " in terminal.text
    assert ("\x1b" in terminal.said) == (look == "rich")
    assert "asteady" not in stdout
    hint, last = shown(terminal.said)
    assert "demonstration" in hint
    assert last.startswith("asteady: 5 tokens, ")
    assert "tokens/s, first after " in last
    assert last.endswith("cut by --max-new-tokens or the context")

    again = Terminal(AT_ONCE, *_ARGUMENTS)
    assert again.finish() == (0, stdout)
    assert shown(again.said)[-1].startswith("asteady: 5 tokens, from the cache")


@pytest.mark.usefixtures("look")
def test_the_line_has_vanished_when_the_text_begins() -> None:
    separate = Terminal(AT_ONCE, *_ARGUMENTS)
    _, text = separate.finish()
    together = Terminal(AT_ONCE, *_ARGUMENTS, "--cache", "bypass", one_terminal=True)
    assert together.finish()[0] == 0
    assert "\rasteady: " in together.text
    hint, *answer, last = shown(together.said)
    assert "demonstration" in hint
    assert answer == [row.rstrip() for row in text.splitlines() if row.strip()]
    assert last.startswith("asteady: 5 tokens, ")


def test_an_error_after_some_text_has_a_line_of_its_own(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object", "properties": {"a": {"type": "string"}}}')
    arguments = ("generate", "hi", "--schema", str(schema), "--max-new-tokens", "2", "--quiet")
    terminal = Terminal(AT_ONCE, *arguments, one_terminal=True)
    assert terminal.finish()[0] == 1
    text, error = shown(terminal.said)
    assert text.startswith("{")
    assert error.startswith("asteady: the answer was cut after 2 tokens")
    _, stdout = Terminal(AT_ONCE, *arguments).finish()
    assert stdout == text


def test_quiet_says_nothing() -> None:
    terminal = Terminal(AT_ONCE, *_ARGUMENTS, "--quiet")
    code, stdout = terminal.finish()
    assert (code, terminal.said) == (0, "")
    assert stdout


def test_with_standard_error_closed_only_the_text_is_printed() -> None:
    command = f'exec "{sys.executable}" -m asteady "$@" 2>&-'
    done = subprocess.run(
        ["sh", "-c", command, "sh", *_ARGUMENTS], stdout=subprocess.PIPE, timeout=60, check=True
    )
    assert done.stdout
    assert b"asteady" not in done.stdout


@pytest.mark.usefixtures("look")
@pytest.mark.parametrize("command", [("embed", "a text"), ("bench", "--iterations", "2")])
def test_other_commands_leave_nothing_on_the_screen(command: Sequence[str]) -> None:
    terminal = Terminal(AT_ONCE, *command)
    code, stdout = terminal.finish()
    assert code == 0, terminal.said
    assert "\rasteady: " in terminal.text
    assert shown(terminal.said) == []
    assert stdout


@pytest.mark.usefixtures("look")
def test_the_line_comes_back_between_the_rows_of_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASTEADY_WORKERS", "1")
    monkeypatch.setenv("ASTEADY_BATCH_WIDTH", "1")
    arguments = ("verify", "--requests", "1", "--max-new-tokens", "1", "--thorough")
    separate = Terminal(AT_ONCE, *arguments)
    _, table = separate.finish()
    together = Terminal(AT_ONCE, *arguments, one_terminal=True)
    assert together.finish()[0] == 0
    assert "\rasteady: verifying " in together.text
    assert " 6 of 7" in together.text  # a second process, which takes a while
    alone, plan, *rows = shown(together.said)
    assert "how long it takes" in alone
    assert plan.startswith("asteady: about ")
    assert [row.split()[:2] for row in rows] == [row.split()[:2] for row in table.splitlines()]


@pytest.mark.usefixtures("look")
def test_ctrl_c_leaves_a_clean_line() -> None:
    terminal = Terminal(STUCK, *_ARGUMENTS)
    terminal.read_until("\rasteady: computing the answer")
    terminal.press_ctrl_c()
    code, stdout = terminal.finish()
    assert (code, stdout) == (130, "")
    assert shown(terminal.said.replace("^C", ""))[-1] == "asteady: interrupted"


_LOADING = Activity(
    phase="loading", subject=str(Path("a") / "m.gguf"), done=50 * 10**6, total=10**8, seconds=1.0
)


def line(activities: Sequence[Activity], otherwise: str, seconds: float, columns: int) -> str:
    return plain_line(status_of(activities, otherwise, seconds), columns)


def test_a_bar_needs_a_measure_and_room() -> None:
    assert line([_LOADING], "", 3.0, 80) == (
        "asteady: loading m.gguf [############............] 50 of 100 MB"
    )
    assert line([_LOADING], "", 3.0, 49) == "asteady: loading m.gguf [#####.....] 50 of 100 MB"
    assert line([_LOADING], "", 3.0, 45) == "asteady: loading m.gguf 50 of 100 MB"
    assert line([], "measuring", 3.0, 80) == "asteady: measuring, 3 s"


def test_a_long_name_is_cut_and_not_how_far_it_is() -> None:
    name = "hf:Qwen/Qwen2.5-1.5B-Instruct-GGUF:Q4_K_M"
    download = Activity(phase="downloading", subject=name, done=10**8, total=10**9, seconds=60.0)
    shown = line([download], "", 60.0, 60)
    assert shown == "asteady: downloading hf:Qwen/... 100 of 1,000 MB, 9 min left"


@pytest.mark.parametrize("columns", [0, 1, 2, 3, 10, 30, 43, 44, 80])
@pytest.mark.parametrize("seconds", [1.0, 100.0])
def test_it_never_is_wider_than_the_terminal(columns: int, seconds: float) -> None:
    rich = pytest.importorskip("rich.console")
    console = rich.Console(file=io.StringIO(), force_terminal=True, width=columns)
    waiting = Activity(phase="waiting", subject="builtin", seconds=seconds)
    loading = attrs.evolve(_LOADING, seconds=seconds)
    statuses = [
        *(status_of(each, "computing", seconds) for each in ([], [loading], [waiting])),
        status_of_count("warming", 3, 100, seconds),
        Status(text="measuring", measure=f"{seconds} s"),
    ]
    for status in statuses:
        assert len(plain_line(status, columns)) <= columns
        assert len(SEQUENCE.sub("", rich_line(console, status, columns))) <= columns


def test_a_prompt_is_measured_in_tokens() -> None:
    prompt = Activity(phase="prompt", subject="builtin", done=64, total=1493)
    assert line([prompt], "", 0.0, 80).endswith("] 64 of 1,493 tokens")


@pytest.mark.parametrize(
    ("seconds", "left"),
    [(1.0, ""), (10.0, ", 30 s left"), (60.0, ", 3 min left"), (4000.0, ", 3.3 h left")],
)
def test_how_long_it_still_takes(seconds: float, left: str) -> None:
    assert status_of_count("warming", 25, 100, seconds).measure == f"25 of 100{left}"
    assert status_of_count("warming", 100, 100, seconds).measure == "100 of 100"
    assert status_of_count("pulling", 1200, 0, seconds) == Status(
        text="pulling", measure="1,200 so far"
    )


@pytest.mark.usefixtures("look")
def test_a_dumb_terminal_gets_a_line_for_each_text() -> None:
    terminal = Terminal(STUCK, *_ARGUMENTS, TERM="dumb")
    terminal.read_until("asteady: computing the answer\r\n")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.finish()[0] == 130
    assert "\x1b" not in terminal.said
    assert "\r" not in terminal.said.replace("\r\n", "")


def test_no_color_is_honoured() -> None:
    terminal = Terminal(AT_ONCE, *_ARGUMENTS, NO_COLOR="1")
    assert terminal.finish()[0] == 0
    assert not re.search(r"\x1b\[[0-9;]*(3[0-9]|38;5)[0-9;]*m", terminal.said)
