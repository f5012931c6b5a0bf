"""What commands say of themselves, and of arguments that they do not take."""

from __future__ import annotations

import argparse
import re
import shlex
from email.message import Message

import pytest

from asteady.cli import main
from asteady.cli._main import build_parser
from asteady.cli._parser import Parser
from tests.cli.commands import Command, parsers

ALL = [pytest.param(*each, id=" ".join(each[0]) or "asteady") for each in parsers()]


@pytest.mark.parametrize(("command", "parser"), ALL)
def test_all_arguments_have_a_help_that_says_more_than_their_default(
    command: Command, parser: Parser
) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {each.dest: each.help for each in action._choices_actions}
            assert set(helps) == set(action.choices)
        else:
            helps = {action.dest: action.help}
        for name, text in helps.items():
            assert len(re.sub("default: .*", "", text or "").split()) > 1, name


@pytest.mark.parametrize(("command", "parser"), ALL)
def test_all_commands_have_a_description_and_examples_that_they_take(
    command: Command, parser: Parser
) -> None:
    assert (parser.description or "").endswith(".")
    assert parser.examples
    for example in parser.examples:
        assert f"\n  {example}\n" in parser.format_help()
        program, *arguments = shlex.split(re.split(" [<>]", example)[0])
        assert (program, *arguments[: len(command)]) == ("asteady", *command)
        build_parser().parse_args(arguments)


def test_the_help_says_where_the_documentation_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    about = Message()
    about["Project-URL"] = "Homepage, https://example.com"
    about["Project-URL"] = "Documentation, https://example.com/docs"
    monkeypatch.setattr("importlib.metadata.metadata", lambda name: about)
    assert main(["--help"]) == 0
    assert capsys.readouterr().out.endswith("\nDocumentation: https://example.com/docs\n")


@pytest.mark.parametrize("command", [(), ("cache",), ("models",)])
def test_without_a_command_it_prints_its_help(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"usage: {' '.join(('asteady', *command))} [-h]")
    assert "example" in shown.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--verbose", "unrecognized arguments: --verbose; see asteady --help"),
        ("cache --all", "unrecognized arguments: --all; see asteady cache --help"),
        ("cache list --al", "unrecognized arguments: --al; see asteady cache list --help"),
        (
            "cache list --limit x",
            "argument --limit: invalid int value: 'x'; see asteady cache list",
        ),
        # It is not taken for --model.
        ("generate hi --mode query", "unrecognized arguments: --mode query; see asteady generate"),
        ("generate hi --choices", "argument --choices: expected at least one argument; see "),
        ("generate Write a haiku", "a haiku (a text of several words needs quotes); see asteady "),
        ("serve --port 99999", "argument --port: a whole number from 0 to 65535, not '99999'; see"),
        ("warm", "the following arguments are required: FILE; see asteady warm --help"),
        ("generat hi", "invalid choice: 'generat'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments.split()) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert shown.err.startswith("asteady: ")
    assert message in shown.err


def test_help_fits_into_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["verify", "--help"]) == 0
    out = capsys.readouterr().out
    description = out.split("\n\n")[1]
    assert max(map(len, description.splitlines())) <= 40
    # A line to be copied is not cut.
    assert "\n  asteady verify --cache --requests 100\n" in out
