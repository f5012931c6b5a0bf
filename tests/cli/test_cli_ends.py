"""How commands end: when nobody reads what they print, and on Ctrl-C."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from asteady.cli import main
from tests.cli.commands import Command, arguments_of, commands
from tests.cli.terminal import AT_ONCE, STUCK, Terminal, shown

ALL = list(commands())

# The first word of an answer, and the second when a line comes on standard input.
_GENERATES = """
import sys, threading
from asteady import Session
from asteady.cli import _generate, main
from asteady.testing import FakeEngine

engine = FakeEngine(lambda request: "word " * 1_000_000)
engine.hold()
engine.step()
_generate.make_session = lambda **_: Session(engine=engine, disable_cache=True)
threading.Thread(target=lambda: (sys.stdin.readline(), engine.step()), daemon=True).start()
code = main(sys.argv[1:])
print("stopped", len(engine.released), file=sys.stderr)
sys.exit(code)
"""


# The second process of a command says on the terminal that it has begun, and does nothing.
STUCK_SECOND_PROCESS = """
import os, sys, threading
if any(each.startswith("from asteady.") for each in sys.orig_argv):
    os.write(os.open("/dev/tty", os.O_WRONLY), b"STARTED")
    threading.Event().wait()
"""


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_a_pipe_that_nobody_reads_ends_a_command_quietly(
    command: Command, files: dict[str, Path | str], capsys: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    before = sys.stdout
    with open(writer, "w") as stream:
        sys.stdout = stream
        try:
            assert main(arguments_of(command, files)) == 141
        finally:
            sys.stdout = before
    said = capsys.readouterr().err
    assert "Broken pipe" not in said
    assert "Traceback" not in said


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize("arguments", ["cache list --json", "--help", "models list", "--version"])
def test_head_has_what_it_wants(arguments: str, files: dict[str, Path | str]) -> None:
    command = f"'{sys.executable}' -m asteady {arguments} | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True
    )
    line, code = done.stdout.splitlines()
    assert line
    assert code in ("0", "141")  # what it prints may fit into the pipe
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "asteady", "cache", "stats"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "asteady: No space left on device\n"


def test_a_reader_that_leaves_in_the_middle_stops_the_computation() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _GENERATES, "generate", "hi"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(4) == b"word"
        process.stdout.close()
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stderr.read() == b"stopped 1\n"
        assert process.wait(60) == 141


def test_a_pipe_of_standard_error_that_nobody_reads_is_no_failure() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stderr:
        done = subprocess.run(
            [sys.executable, "-m", "asteady", "cache", "get", "none"],
            stdout=subprocess.PIPE,
            stderr=stderr,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stdout) == (1, b"")


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
class TestCtrlC:
    def test_at_the_first_byte_of_an_answer_closes_all(self) -> None:
        with subprocess.Popen(
            [sys.executable, "-c", _GENERATES, "generate", "hi"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.read(1) == b"w"
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert err == b"asteady: interrupted\nstopped 1\n"

    def test_while_a_model_is_loaded_closes_the_cache(self, tmp_path: Path) -> None:
        terminal = Terminal(STUCK, "generate", "hi")
        terminal.read_until("\rasteady: computing the answer")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.finish() == (130, "")
        assert shown(terminal.said)[-1] == "asteady: interrupted"
        # An open database has a log beside it.
        assert [file.name for file in (tmp_path / "caches").glob("*-wal")] == []
        assert list((tmp_path / "caches").glob("*.db"))

    def test_twice_ends_too(self) -> None:
        terminal = Terminal(STUCK, "generate", "hi")
        terminal.read_until("\rasteady: computing the answer")
        terminal.process.send_signal(signal.SIGINT)
        terminal.process.send_signal(signal.SIGINT)
        code, stdout = terminal.finish()
        # The second one may come when Python has nearly ended, and handles no signals any more: a
        # shell says 130 of that too.
        assert code in (130, -signal.SIGINT)
        assert stdout == ""
        assert "Traceback" not in terminal.said

    @pytest.mark.parametrize("command", ["generate", "embed", "tokens", "warm -"])
    def test_while_standard_input_is_awaited(self, command: str) -> None:
        # It says when it reads, so that it is past its imports.
        program = """
import os, sys

class Waits:
    @staticmethod
    def read():
        os.write(1, b"reading")
        os.read(0, 1)

    @staticmethod
    def isatty():
        return False

Waits.buffer = Waits
sys.stdin = Waits
sys.argv[:1] = ["asteady"]
from asteady.cli import main
sys.exit(main())
"""
        with subprocess.Popen(
            [sys.executable, "-c", program, *command.split()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.read(7) == b"reading"
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
            assert (process.returncode, err) == (130, b"asteady: interrupted\n")

    @pytest.mark.parametrize("moment", ["atexit.register(kill)", "threading_exit(kill)"])
    def test_while_python_ends(self, moment: str) -> None:
        program = f"""
import atexit, os, signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)
kill = lambda: os.kill(os.getpid(), signal.SIGINT)
threading_exit = threading._register_atexit
{moment}
sys.argv = ["asteady", "--version"]
from asteady.cli import main
sys.exit(main())
"""
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 130
        assert done.stdout.startswith("asteady ")
        assert done.stderr == "asteady: interrupted\n"

    @pytest.mark.parametrize("arguments", ["models check MODEL", "verify --requests 1 --thorough"])
    def test_ends_the_processes_that_a_command_has_started(
        self, arguments: str, files: dict[str, Path | str], tmp_path: Path
    ) -> None:
        (tmp_path / "sitecustomize.py").write_text(STUCK_SECOND_PROCESS)
        path = os.pathsep.join([str(tmp_path), *sys.path])
        command = [str(files.get(each, each)) for each in arguments.split()]
        terminal = Terminal(
            AT_ONCE, *command, ASTEADY_WORKERS="1", ASTEADY_BATCH_WIDTH="1", PYTHONPATH=path
        )
        terminal.read_until("STARTED")
        terminal.press_ctrl_c()
        code, _ = terminal.finish()
        assert code == 130
        assert shown(terminal.said.replace("^C", ""))[-1].endswith("asteady: interrupted")
        assert "Traceback" not in terminal.said

    def test_that_a_shell_has_set_to_be_ignored_is_ignored(self) -> None:
        program = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "asteady.cli._main":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv = ["asteady", "--version"]
from asteady.cli import main
sys.exit(main())
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")

    @pytest.mark.parametrize("plain", ["", "1"])
    def test_ends_the_live_statistics_quietly(self, plain: str) -> None:
        arguments = ("cache", "stats", "--watch", "0.01")
        terminal = Terminal(AT_ONCE, *arguments, one_terminal=True, PLAIN=plain)
        terminal.read_until("in the last 0.01 s: 0 hits, 0 misses")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.finish()[0] == 0
        assert "interrupted" not in terminal.said
        assert "Traceback" not in terminal.said
        # The cursor that rich has hidden is there again.
        assert terminal.said.count("\x1b[?25l") == terminal.said.count("\x1b[?25h") == (not plain)
        assert terminal.said.rstrip("\x1b[?25h").endswith("\r\n")


def test_live_statistics_are_lines_of_json_for_a_program() -> None:
    import json

    with subprocess.Popen(
        [sys.executable, "-m", "asteady", "cache", "stats", "--watch", "0.01", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        for _ in range(3):
            assert set(json.loads(process.stdout.readline())) == {"generation", "embedding"}
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr is not None
        assert process.stderr.read() == b""


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_a_time_that_is_none_is_refused(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "stats", f"--watch={seconds}"]) == 1
    assert f"--watch {seconds} is not allowed" in capsys.readouterr().err
