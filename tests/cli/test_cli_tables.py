"""Tables and curves, as wide as the terminal; and whole where there is none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from asteady.cli import main
from asteady.cli._curve import draw_curve
from asteady.cli._output import Column, print_table
from asteady.operate import CacheOptimizer
from tests.cli.terminal import AT_ONCE, COUNTED, Terminal, shown
from tests.cli.test_cli import run

COMMANDS = ["cache stats", "cache list", "cache namespaces", "models list", "models probe"]


@pytest.mark.parametrize("plain", ["", "1"])
@pytest.mark.parametrize("columns", [40, 80])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_table_fits_the_terminal(
    command: str, columns: int, plain: str, files: dict[str, Path | str]
) -> None:
    arguments = command.split()
    terminal = Terminal(AT_ONCE, *arguments, one_terminal=True, columns=columns, PLAIN=plain)
    assert terminal.finish()[0] == 0, terminal.said
    table = "\n".join(shown(terminal.said)).split("Not on this machine:")[0].splitlines()
    rows = [row for row in table if not row.startswith(("namespaces: ", "builtin: width"))]
    wrapped = {"models list", "cache list"} if plain else set()  # by the terminal itself
    if command not in wrapped:
        assert max(map(len, rows)) <= columns, "\n".join(rows)
    assert ("\x1b" in terminal.said) == (not plain or (command == "models probe" and not plain))


@pytest.mark.parametrize("command", COMMANDS)
def test_without_a_terminal_a_table_is_plain_and_whole(
    command: str, files: dict[str, Path | str]
) -> None:
    environment = {"COLUMNS": "20", "FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"}
    done = run(*command.split(), **environment)
    assert "\x1b" not in done.stdout
    assert done.stderr == ""
    if command == "models list":
        assert "FINGERPRINT" in done.stdout
    if command == "cache list":
        assert "touches" in done.stdout


def test_columns_are_aligned_and_left_out_by_their_order(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = (Column(title="name"), Column(title="n", right=True, spare=1), Column(title="why"))
    print_table(columns, [("a", 1, "x"), ("long name", 1000, "y")])
    assert capsys.readouterr().out == (
        "name          n  why\na             1  x\nlong name  1000  y\n"
    )
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setattr("asteady.cli._output.columns_of", lambda stream: 19)
    print_table(columns, [("a", 1, "x"), ("long name", 1000, "y")])
    assert capsys.readouterr().out == "name       why\na          x\nlong name  y\n"


@pytest.mark.parametrize("plain", ["", "1"])
@pytest.mark.parametrize("command", ["cache list", "warm FILE --max-new-tokens 1"])
def test_a_terminal_of_ascii_gets_nothing_else(
    command: str, plain: str, files: dict[str, Path | str]
) -> None:
    arguments = [str(files.get(each, each)) for each in command.split()]
    c_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    terminal = Terminal(
        COUNTED,
        *arguments,
        one_terminal=True,
        columns=120,
        environment={**c_locale, "PLAIN": plain},
    )
    terminal.finish()
    assert terminal.said.isascii()
    assert "Traceback" not in terminal.said
    if command == "cache list":
        assert r"Gr\xfc\xdfe" in terminal.said


@pytest.fixture
def accesses(tmp_path: Path) -> Path:
    file = tmp_path / "accesses"
    file.write_text("".join(f"k{n % 40 if n % 3 else n % 5}\t100\t0.5\n" for n in range(2000)))
    return file


@pytest.mark.parametrize("columns", [30, 40, 80, 200])
@pytest.mark.parametrize("blocks", [True, False])
def test_the_curve_rises_to_its_marks(columns: int, blocks: bool, accesses: Path) -> None:
    from asteady.operate._benchmark import read_accesses

    optimizer = CacheOptimizer()
    for access in read_accesses(accesses):
        optimizer.record(access)
    found = optimizer.recommend(0.95)
    lines = draw_curve(optimizer.curve(), found, columns, blocks, "seconds")
    assert max(map(len, lines[:-2])) <= columns
    area = [line[6:].ljust(len(lines[10])) for line in lines[1:11]]
    heights = [sum(row[at : at + 1].strip() != "" for row in area) for at in range(len(area[-1]))]
    heights = heights[: len(lines[11]) - 6]
    assert heights == sorted(heights)
    assert lines[1].startswith("100 %")
    assert lines[-2].rstrip().endswith("^")  # now: 256, the largest
    assert f"95 % of the best: {found.entries}" in lines[-1]
    assert blocks or all(line.isascii() for line in lines)


def test_the_size_is_a_curve_on_a_terminal_and_a_table_elsewhere(accesses: Path) -> None:
    arguments = ("cache", "size", "--accesses", str(accesses))
    terminal = Terminal(AT_ONCE, *arguments, one_terminal=True)
    assert terminal.finish()[0] == 0
    assert "share of computing time saved" in terminal.text
    assert "█" in terminal.text
    assert "now: 256 ^" in terminal.text
    hits = Terminal(
        AT_ONCE, *arguments, "--by", "hits", one_terminal=True, PYTHONIOENCODING="ascii"
    )
    assert hits.finish()[0] == 0
    assert "share of requests saved" in hits.text
    assert "####" in hits.text
    assert run(*arguments).stdout.startswith("   entries  hits %  saved %\n")


def test_nothing_repeated_has_no_curve_to_draw(tmp_path: Path) -> None:
    file = tmp_path / "once"
    file.write_text("a\t1\t1\nb\t1\t1\n")
    terminal = Terminal(AT_ONCE, "cache", "size", "--accesses", str(file), one_terminal=True)
    assert terminal.finish()[0] == 0, terminal.said
    assert "no request was repeated" in terminal.text


def test_choices_that_took_the_prompt_are_told_how_to_be_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ("generate", "--choices", "good", "bad", "Is it good?")
    for done in (run(*arguments), run(*arguments, stdin="")):
        assert done.returncode == 1
        assert "asteady generate 'Is it good?' --choices good bad" in done.stderr
        assert done.stderr.count("\n") == 1
    terminal = Terminal(AT_ONCE, *arguments)
    assert terminal.finish()[0] == 1
    piped = run("generate", "--choices", "good", "bad", stdin="Is it good?")
    first = run("generate", "Is it good?", "--choices", "good", "bad")
    last = run("generate", "--choices", "good", "bad", "--", "Is it good?")
    assert piped.stdout == first.stdout == last.stdout
    assert first.stdout.strip() in ("good", "bad")


def test_tokens_are_turned_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokens", "ö 東京", "--raw", "--show", "--json"]) == 0
    import json

    ids = [str(token["id"]) for token in json.loads(capsys.readouterr().out)["tokens"]]
    assert main(["tokens", "--detokenize", *ids]) == 0
    assert capsys.readouterr().out == "ö 東京\n"
    assert run("tokens", "--detokenize", stdin=", ".join(ids)).stdout == "ö 東京\n"
    assert json.loads(run("tokens", "--json", "--detokenize", *ids).stdout) == {"text": "ö 東京"}
    for arguments, message in (
        (("hi", "--detokenize", "1"), "--detokenize takes the ids of tokens, and no prompt"),
        (("--detokenize", "99999999"), "the token 99999999 is not allowed"),
        (("hi", "--mode", "query"), "--mode needs --embed"),
    ):
        assert main(["tokens", *arguments]) == 1
        assert message in capsys.readouterr().err
    assert "is no list of ids" in run("tokens", "--detokenize", stdin="one").stderr
    assert main(["tokens", "hi", "--embed", "--mode", "query"]) == 1
    assert "not supported for the model" in capsys.readouterr().err  # it is passed on


def test_the_hint_about_the_built_in_model_is_for_terminals() -> None:
    terminal = Terminal(AT_ONCE, "generate", "hi", "--max-new-tokens", "1")
    terminal.finish()
    assert "demonstration" in terminal.text
    assert "demonstration" not in run("generate", "hi", "--max-new-tokens", "1").stderr


def test_every_command_has_an_example_in_the_documentation() -> None:
    from tests.cli.commands import commands

    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text("utf-8")
    missing = [each for each in map(" ".join, commands()) if f"\nasteady {each}" not in page]
    assert missing == []
