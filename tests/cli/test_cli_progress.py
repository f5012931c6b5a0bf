"""What commands say on a terminal, a real pseudo-terminal where it matters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from asteady import Activity
from asteady.cli._progress import line

pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")

# The command, with a line from the start: no time need pass until there is something to show.
_AT_ONCE = """
import sys
from asteady.cli import _progress, main
_progress.NOTICEABLE_S = 0.0
sys.exit(main(sys.argv[1:]))
"""

# The model is never loaded.
_STUCK = """
import sys, threading
from asteady._engine.loader import LlamaSource
from asteady.cli import _progress, main
_progress.NOTICEABLE_S = 0.0
LlamaSource.load = lambda *_: threading.Event().wait()
sys.exit(main(sys.argv[1:]))
"""


class Terminal:
    """A command whose standard error is a terminal, with `one_terminal` standard output too."""

    def __init__(self, program: str, *arguments: str, one_terminal: bool = False) -> None:
        self._screen, stderr = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stderr if one_terminal else subprocess.PIPE,
            stderr=stderr,
        )
        os.close(stderr)
        self.said = ""

    def read_until(self, text: str) -> None:
        while text not in self.said and self._read():
            pass
        assert text in self.said

    def finish(self) -> tuple[int, str]:
        """The exit code and standard output."""
        while self._read():
            pass
        os.close(self._screen)
        stdout, _ = self.process.communicate(timeout=60)
        return self.process.returncode, (stdout or b"").decode()

    def _read(self) -> bool:
        try:
            piece = os.read(self._screen, 4096)
        except OSError:  # on Linux, at the end
            return False
        self.said += piece.decode()
        return bool(piece)


def shown(said: str) -> list[str]:
    """The lines that stay on the screen."""
    lines = []
    for text in said.replace("\r\n", "\n").split("\n"):
        cells: list[str] = []
        for part in text.split("\r"):
            cells[: len(part)] = part
        lines.append("".join(cells).rstrip())
    return [text for text in lines if text]


_ARGUMENTS = ("generate", "Write a haiku about caching", "--max-new-tokens", "5")


def test_the_line_vanishes_and_one_line_says_how_it_went() -> None:
    terminal = Terminal(_AT_ONCE, *_ARGUMENTS)
    code, stdout = terminal.finish()
    assert code == 0
    assert "\rasteady: " in terminal.said
    assert "\x1b" not in terminal.said
    assert "asteady" not in stdout
    hint, last = shown(terminal.said)
    assert "demonstration" in hint
    assert last.startswith("asteady: 5 tokens, ")
    assert "tokens/s, first after " in last
    assert last.endswith("cut by --max-new-tokens or the context")

    again = Terminal(_AT_ONCE, *_ARGUMENTS)
    assert again.finish() == (0, stdout)
    assert shown(again.said)[-1].startswith("asteady: 5 tokens, from the cache")


def test_the_line_has_vanished_when_the_text_begins() -> None:
    separate = Terminal(_AT_ONCE, *_ARGUMENTS)
    _, text = separate.finish()
    together = Terminal(_AT_ONCE, *_ARGUMENTS, "--cache", "bypass", one_terminal=True)
    assert together.finish()[0] == 0
    assert "\rasteady: " in together.said
    hint, *answer, last = shown(together.said)
    assert "demonstration" in hint
    assert answer == [row.rstrip() for row in text.splitlines() if row.strip()]
    assert last.startswith("asteady: 5 tokens, ")


def test_an_error_after_some_text_has_a_line_of_its_own(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object", "properties": {"a": {"type": "string"}}}')
    arguments = ("generate", "hi", "--schema", str(schema), "--max-new-tokens", "2", "--quiet")
    terminal = Terminal(_AT_ONCE, *arguments, one_terminal=True)
    assert terminal.finish()[0] == 1
    text, error = shown(terminal.said)
    assert text.startswith("{")
    assert error.startswith("asteady: the answer was cut after 2 tokens")
    _, stdout = Terminal(_AT_ONCE, *arguments).finish()
    assert stdout == text


def test_quiet_says_nothing() -> None:
    terminal = Terminal(_AT_ONCE, *_ARGUMENTS, "--quiet")
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


@pytest.mark.parametrize("command", [("embed", "a text"), ("bench", "--iterations", "2")])
def test_other_commands_leave_nothing_on_the_screen(command: Sequence[str]) -> None:
    terminal = Terminal(_AT_ONCE, *command)
    code, stdout = terminal.finish()
    assert code == 0, terminal.said
    assert "\rasteady: " in terminal.said
    assert shown(terminal.said) == []
    assert stdout


def test_the_line_comes_back_between_the_rows_of_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASTEADY_WORKERS", "1")
    monkeypatch.setenv("ASTEADY_BATCH_WIDTH", "1")
    arguments = ("verify", "--requests", "1", "--max-new-tokens", "1", "--thorough")
    separate = Terminal(_AT_ONCE, *arguments)
    _, table = separate.finish()
    together = Terminal(_AT_ONCE, *arguments, one_terminal=True)
    assert together.finish()[0] == 0
    assert "\rasteady: step 7 of 7, " in together.said  # a second process, which takes a while
    alone, plan, *rows = shown(together.said)
    assert "how long it takes" in alone
    assert plan.startswith("asteady: about ")
    assert [row.split()[:2] for row in rows] == [row.split()[:2] for row in table.splitlines()]


def test_ctrl_c_leaves_a_clean_line() -> None:
    terminal = Terminal(_STUCK, *_ARGUMENTS)
    terminal.read_until("\rasteady: computing the answer")
    terminal.process.send_signal(signal.SIGINT)
    code, stdout = terminal.finish()
    assert (code, stdout) == (130, "")
    assert shown(terminal.said)[-1] == "asteady: interrupted"


_LOADING = Activity(
    phase="loading", subject=str(Path("a") / "m.gguf"), done=50 * 10**6, total=10**8, seconds=1.0
)


def test_a_bar_needs_a_measure_and_room() -> None:
    assert line([_LOADING], "", 3.0, 80) == (
        "asteady: loading m.gguf [############............] 50 of 100 MB"
    )
    assert line([_LOADING], "", 3.0, 49) == "asteady: loading m.gguf [#####.....] 50 of 100 MB"
    assert line([_LOADING], "", 3.0, 45) == "asteady: loading m.gguf 50 of 100 MB"
    assert line([], "measuring", 3.0, 80) == "asteady: measuring, 3 s"


@pytest.mark.parametrize("columns", [0, 1, 2, 3, 10, 30, 43, 44, 80])
def test_it_never_is_wider_than_the_terminal(columns: int) -> None:
    waiting = Activity(phase="waiting", subject="builtin", seconds=2.0)
    for activities in ([], [_LOADING], [waiting]):
        assert len(line(activities, "computing the answer", 3.0, columns)) <= columns


def test_a_prompt_is_measured_in_tokens() -> None:
    prompt = Activity(phase="prompt", subject="builtin", done=64, total=1493)
    assert line([prompt], "", 0.0, 80).endswith("] 64 of 1,493 tokens")
