"""The parser of a command: with examples in its help, and errors of one line."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn, TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"

WRONG_USAGE = 2


class Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviations: what is no option here must not be taken for another.

    `examples` are command lines, which end the help.
    """

    def __init__(
        self, *, examples: Sequence[str] = (), epilog: str | None = None, **more: Any
    ) -> None:
        self.examples = examples
        ends = [] if epilog is None else [epilog]
        if examples:
            title = "example:" if len(examples) == 1 else "examples:"
            ends.insert(0, "\n  ".join([title, *examples]))
        super().__init__(
            epilog="\n\n".join(ends), allow_abbrev=False, formatter_class=_Formatter, **more
        )

    def add_commands(self, title: str, metavar: str) -> Commands:
        """The commands below it; without one it prints its help, which is wrong usage."""
        self.set_defaults(run=self._run_none)
        return self.add_subparsers(title=title, metavar=metavar, parser_class=Parser)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:  # argparse would have the parser of all commands say so, which knows no option
            quotes = "" if unknown[0].startswith("-") else " (a text of several words needs quotes)"
            self.error(f"unrecognized arguments: {' '.join(unknown)}{quotes}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        # On one line: the usage of a command with many options would hide what is wrong.
        self.exit(WRONG_USAGE, f"asteady: {message}; see {self.prog} --help\n")

    def _run_none(self, options: argparse.Namespace) -> int:
        self.print_help(sys.stderr)
        return WRONG_USAGE


class _Formatter(argparse.HelpFormatter):
    """Wraps each line of a text, but leaves those as they are that begin with blanks."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(
            line if line.startswith(" ") else textwrap.fill(line, width)
            for line in text.splitlines()
        )

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        if action.nargs == argparse.PARSER and action.choices is not None:
            # argparse forgets that they are indented, and has no room beside the longest.
            longest = max(map(len, action.choices)) + 2 * self._indent_increment
            self._action_max_length = max(self._action_max_length, longest)
