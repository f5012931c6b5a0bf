"""Every command prints on every encoding: what it lacks is escaped, and nothing fails."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from asteady.cli import main
from tests.cli.commands import EXAMPLES, TEXT, Command, arguments_of, commands, takes_json

ALL = list(commands())
ENCODINGS = ("ascii", "cp1252", "cp437", "utf-8")


def run(encoding: str, arguments: list[str]) -> tuple[int, str, str]:
    """The exit code and the two outputs of a command in this process, as an encoding has them."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding, newline="\n") for _ in range(2)]
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = streams
    try:
        code = main(arguments)
    finally:
        sys.stdout, sys.stderr = before
    for stream in streams:
        stream.flush()
    out, err = (stream.buffer.getvalue() for stream in streams)
    # A path is printed with the bytes that it has.
    return code, out.decode("utf-8" if "path" in arguments else encoding), err.decode(encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_a_command_prints_on_an_encoding(
    command: Command,
    encoding: str,
    files: dict[str, Path | str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    code, out, err = run(encoding, arguments_of(command, files))
    assert code == (1 if command == ("warm",) else 0), err
    assert out
    assert "Traceback" not in err


@pytest.mark.parametrize("command", [each for each in EXAMPLES if takes_json(each)], ids=" ".join)
def test_json_has_the_escapes_of_json(
    command: Command, files: dict[str, Path | str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    code, out, err = run("ascii", [*arguments_of(command, files), "--json"])
    assert code == (1 if command == ("warm",) else 0), err
    json.loads(out)


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_help_and_wrong_usage_print_on_ascii(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    assert run("ascii", [*command, "--help"])[0] == 0
    code, out, err = run("ascii", [*command, "--no-such-größe-€"])
    assert (code, out) == (2, "")
    assert err.startswith("asteady: ")


def test_the_same_text_is_escaped_in_two_ways(
    files: dict[str, Path | str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    _, out, _ = run("ascii", ["cache", "list"])
    assert r"'Gr\xfc\xdfe, \u20ac5 \U0001f600 \u6771\u4eac'" in out
    _, out, _ = run("ascii", ["cache", "list", "--json"])
    assert json.loads(out)[0]["prompt"] == TEXT
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
    _, out, _ = run("cp1252", ["cache", "list"])
    assert r"'Grüße, €5 \U0001f600 \u6771\u4eac'" in out


def real(
    *arguments: str, stdin: bytes | None = None, environment: dict[str, str] | None = None
) -> tuple[int, bytes, str]:
    done = subprocess.run(
        [sys.executable, "-m", "asteady", *arguments],
        input=stdin,
        capture_output=True,
        env=os.environ | (environment or {}),
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr.decode()


ASCII = {"PYTHONIOENCODING": "ascii"}
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_a_pipe_gets_utf_8_unless_told_otherwise(files: dict[str, Path | str]) -> None:
    arguments = ("generate", "hi", "--model", str(files["MODEL"]), "--quiet")
    code, out, err = real(*arguments)
    assert (code, err) == (0, "")
    text = out.decode()
    assert not text.isascii()
    # The C locale has no encoding but ASCII, and no part in this.
    assert real(*arguments, environment=C_LOCALE)[1] == out
    escaped = text.encode("ascii", "backslashreplace")
    assert real(*arguments, environment=ASCII)[1] == escaped
    answer = real(*arguments, "--json", environment=ASCII)[1]
    assert answer.isascii()
    assert json.loads(answer)["text"] + "\n" == text


@pytest.mark.skipif(sys.platform == "win32", reason="its arguments have no bytes")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generate", "caf\udce9"), "the prompt is not valid UTF-8: byte 0xe9 after 3 characters"),
        (("embed", "a", "\udce9"), "text 2 is not valid UTF-8: byte 0xe9 after 0 characters"),
        (("tokens", "\udce9"), "the prompt is not valid UTF-8"),
        (("generate", "a", "--stop", "\udce9"), "without lone surrogates"),
        (("generate", "a", "--choices", "b", "\udce9"), "surrogates"),
        (("generate", "a", "--namespace", "\udce9"), "surrogates"),
        (("cache", "get", "\udce9"), "no entry has a key"),
        (("generate", "a", "--model", "/no/\udce9.gguf"), "/no/"),
    ],
)
def test_an_argument_that_is_no_text_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    code, out, err = real(*arguments)
    assert (code, out) == (1, b"")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="its arguments have no bytes")
def test_an_argument_in_utf_8_is_read_in_the_c_locale(files: dict[str, Path | str]) -> None:
    arguments = ("--raw", "--max-new-tokens", "1", "--json", "--model", str(files["MODEL"]))
    _, out, err = real("generate", TEXT, *arguments, environment=C_LOCALE)
    assert err == ""
    again = json.loads(real("generate", TEXT, *arguments)[1])
    assert (json.loads(out)["cached"], again["cached"]) == (False, True)


@pytest.mark.parametrize(
    "command", [("generate",), ("embed",), ("tokens",), ("generate", "--messages", "-")]
)
def test_standard_input_that_is_no_text_is_one_line(command: tuple[str, ...]) -> None:
    code, out, err = real(*command, stdin=b"caf\xe9")
    assert (code, out) == (1, b"")
    assert err.startswith("asteady: standard input is not valid UTF-8: byte 0xe9 at position 3")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        "generate hi --schema",
        "generate hi --grammar",
        "generate hi --tools",
        "generate --messages",
        "tokens --messages",
        "verify --prompts",
        "warm",
    ],
)
def test_a_file_that_is_no_text_is_one_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "latin-1"
    file.write_bytes(b'"caf\xe9"\n')
    assert main([*command.split(), str(file)]) == (2 if command.startswith("verify") else 1)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    if command != "warm":  # which names the line
        assert f"{file} is not valid UTF-8: byte 0xe9 at position 4" in said


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    arguments = ("generate", "--max-new-tokens", "1", "--json")
    plain = real(*arguments, stdin=b"hi")
    marked = real(*arguments, stdin=b"\xef\xbb\xbfhi")
    assert json.loads(plain[1])["text"] == json.loads(marked[1])["text"]
    assert json.loads(marked[1])["cached"] is True


def test_a_stream_that_is_no_file_may_stand_for_standard_output(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text: Any = io.StringIO()
    monkeypatch.setattr(sys, "stdout", text)
    assert main(["cache", "stats"]) == 0
    assert "hit rate" in text.getvalue()
