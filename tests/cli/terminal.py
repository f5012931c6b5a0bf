"""Commands on a pseudo-terminal."""

from __future__ import annotations

import codecs
import os
import re
import select
import struct
import subprocess
import sys
from collections.abc import Mapping

import pytest

pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")

# The line is there when something takes long.
LATER = "import sys; from asteady.cli import main; sys.exit(main())"

# Set PLAIN to do without rich. The line is there from the start: no time need pass until there is
# something to show.
_START = """
import os, sys, threading
if os.environ.get("PLAIN"):
    sys.modules["rich"] = None
from asteady.cli import _progress, main
_progress.NOTICEABLE_S = 0.0
"""
AT_ONCE = _START + "sys.exit(main())"

# The model is never loaded.
STUCK = (
    _START
    + """
from asteady._engine.loader import LlamaSource
LlamaSource.load = lambda *_: threading.Event().wait()
sys.exit(main())
"""
)

# Each number is painted, however fast they come.
COUNTED = (
    _START
    + """
count = _progress.Progress.count
def at_once(self, *given):
    count(self, *given)
    self._paint(self._status())
_progress.Progress.count = at_once
sys.exit(main())
"""
)

_STUCK_S = 120.0

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Terminal:
    """A command whose standard error is a terminal, with `one_terminal` standard output too."""

    def __init__(
        self,
        program: str,
        *arguments: str,
        one_terminal: bool = False,
        columns: int = 80,
        environment: Mapping[str, str] | None = None,
        **more: str,
    ) -> None:
        import fcntl
        import termios

        self._screen, stderr = pty.openpty()
        fcntl.ioctl(stderr, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stderr if one_terminal else subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, "TERM": "xterm-256color", **(environment or {}), **more},
            # So that the terminal's keys send signals, to the command and what it starts.
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(2, termios.TIOCSCTTY, 0),
        )
        os.close(stderr)
        self.said = ""
        # A piece may end within a character.
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    @property
    def text(self) -> str:
        """What it said, without colours."""
        return _COLOURS.sub("", self.said)

    def press_ctrl_c(self) -> None:
        """The terminal writes ^C for it, before the command's last line or after it: it sends the
        signal first."""
        os.write(self._screen, b"\x03")

    def read_until(self, text: str) -> None:
        while text not in self.text and self._read():
            pass
        assert text in self.text

    def finish(self) -> tuple[int, str]:
        """The exit code and standard output."""
        while self._read():
            pass
        os.close(self._screen)
        stdout, _ = self.process.communicate(timeout=60)
        return self.process.returncode, (stdout or b"").decode()

    def _read(self) -> bool:
        if not select.select([self._screen], [], [], _STUCK_S)[0]:
            self.process.kill()  # what was to be said is missing: the test fails, and does not hang
            return False
        try:
            piece = os.read(self._screen, 4096)
        except OSError:  # on Linux, at the end
            return False
        self.said += self._decode(piece)
        return bool(piece)


def shown(said: str) -> list[str]:
    """The lines that stay on the screen."""
    lines = []
    for text in said.replace("\r\n", "\n").split("\n"):
        cells: list[str] = []
        for part in text.split("\r"):
            at = 0
            for piece in re.split(r"(\x1b\[K)", part):
                if piece == "\x1b[K":
                    del cells[at:]
                    continue
                plain = SEQUENCE.sub("", piece)
                cells[at : at + len(plain)] = plain
                at += len(plain)
        lines.append("".join(cells).rstrip())
    return [text for text in lines if text]
