"""All commands, as the parser has them, with an example of each that prints other alphabets."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from asteady.cli._main import build_parser

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


def commands(
    parser: argparse.ArgumentParser | None = None, path: Command = ()
) -> Iterator[Command]:
    """The words of every command."""
    subparsers = [
        action
        for action in (parser or build_parser())._actions
        if isinstance(action, argparse._SubParsersAction)
    ]
    if not subparsers:
        yield path
    for action in subparsers:
        for name, command in action.choices.items():
            yield from commands(command, (*path, name))


def takes_json(command: Command) -> bool:
    parser = build_parser()
    for name in command:
        (action,) = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        parser = action.choices[name]
    return any("--json" in action.option_strings for action in parser._actions)


def arguments_of(command: Command, files: dict[str, Path | str]) -> list[str]:
    """An example with its files, or for a command without one its help."""
    example = EXAMPLES.get(command, ("--help",))
    return [*command, *(str(files.get(each, each)) for each in example)]
