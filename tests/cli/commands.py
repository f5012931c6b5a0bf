"""All commands, as the parser has them, with an example of each that prints other alphabets."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from asteady.cli._main import build_parser
from asteady.cli._parser import Parser

# In no encoding but those of Unicode are all of them.
TEXT = "Grüße, €5 😀 東京"

Command = tuple[str, ...]

# Words in capitals are files, and KEY an entry's key.
EXAMPLES: dict[Command, tuple[str, ...]] = {
    ("generate",): (TEXT, "--max-new-tokens", "3"),
    ("embed",): (TEXT,),
    ("tokens",): (TEXT, "--show"),
    ("models", "list"): (),
    ("models", "path"): ("MODEL",),
    ("models", "check"): ("MODEL",),
    ("models", "probe"): ("MODEL",),
    ("cache", "stats"): (),
    ("cache", "list"): (),
    ("cache", "get"): ("KEY",),
    ("cache", "delete"): ("KEY",),
    ("cache", "clear"): ("--namespace", "größe/東京"),
    ("cache", "path"): (),
    ("cache", "namespaces"): (),
    ("cache", "size"): ("--accesses", "ACCESSES"),
    ("cache", "export"): ("OUT",),
    ("cache", "import"): ("EXPORT",),
    ("warm",): ("FILE", "--max-new-tokens", "2"),
    ("bench",): (TEXT, "--iterations", "2", "--max-new-tokens", "2"),
    ("fingerprint",): ("--model", "MODEL"),
    ("verify",): ("--cache", "--requests", "1"),
    ("completion",): ("bash",),
}


def parsers(parser: Parser | None = None, path: Command = ()) -> Iterator[tuple[Command, Parser]]:
    """The parser of the program, of each command and of each command's actions, by their words."""
    parser = parser or build_parser()
    yield path, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield from parsers(command, (*path, name))


def commands() -> Iterator[Command]:
    """The words of every command."""
    for path, parser in parsers():
        if not any(isinstance(action, argparse._SubParsersAction) for action in parser._actions):
            yield path


def takes_json(command: Command) -> bool:
    parser = dict(parsers())[command]
    return any("--json" in action.option_strings for action in parser._actions)


def arguments_of(command: Command, files: dict[str, Path | str]) -> list[str]:
    """An example with its files, or for a command without one its help."""
    example = EXAMPLES.get(command, ("--help",))
    return [*command, *(str(files.get(each, each)) for each in example)]
