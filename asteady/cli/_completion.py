"""``asteady completion bash|zsh|fish``, and what those scripts ask for.

By argcomplete, which completes from the parser itself, in all three shells, and knows how bash cuts
words at colons, which references of models have. shtab has no fish, and its scripts could not know
which models are on this machine.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from asteady._base.errors import InvalidRequestError
from asteady._base.settings import NAMED_MODELS
from asteady.cli._common import Commands

_SHELLS = ("bash", "zsh", "fish")
_REMEDY = 'completion needs argcomplete: pip install "asteady[cli]"'

_EPILOG = """\
or for this shell only:
  eval "$(asteady completion bash)"
  eval "$(asteady completion zsh)"
  asteady completion fish | source"""


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "completion",
        help="print a script that completes commands in a shell",
        description="Print a script for the shell that completes commands, options, values and the"
        " names of files and models. To install it, write it to where the shell looks for it.",
        examples=(
            "asteady completion bash > ~/.local/share/bash-completion/completions/asteady",
            'asteady completion zsh > "${fpath[1]}/_asteady"',
            "asteady completion fish > ~/.config/fish/completions/asteady.fish",
        ),
        epilog=_EPILOG,
    )
    parser.add_argument("shell", choices=_SHELLS, help="the shell that runs the script")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    try:
        from argcomplete.shell_integration import shellcode
    except ImportError:
        raise InvalidRequestError(_REMEDY) from None
    print(shellcode(["asteady"], shell=options.shell).strip())
    return 0


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the script of a shell, and end the process."""
    try:
        from argcomplete import autocomplete
        from argcomplete.completers import SuppressCompleter
    except ImportError:
        os._exit(1)
    _name_completers(parser)
    autocomplete(parser, always_complete_options="long", default_completer=SuppressCompleter())


def _name_completers(parser: argparse.ArgumentParser) -> None:
    """Of all arguments, by what their metavar says they are."""
    for action in arguments_of(parser):
        what: Any = action
        if action.metavar == "FILE":
            what.completer = complete_file
        elif action.metavar == "MODEL":
            what.completer = complete_model


def arguments_of(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The arguments of all commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from arguments_of(command)
        else:
            yield action


def complete_file(
    prefix: str, keep: Callable[[str], bool] = lambda name: True, **_: Any
) -> list[str]:
    """The files and directories that begin so."""
    folder, name = os.path.split(prefix)
    found = []
    try:
        with os.scandir(os.path.expanduser(folder) or ".") as entries:
            for entry in entries:
                hidden = entry.name.startswith(".") and not name.startswith(".")
                if entry.name.startswith(name) and not hidden:
                    path = os.path.join(folder, entry.name)
                    if entry.is_dir():
                        found.append(path + os.sep)
                    elif keep(entry.name):
                        found.append(path)
    except OSError:
        return []
    return sorted(found)


def complete_model(prefix: str, **_: Any) -> list[str]:
    """The names of models, those of the hub that are here or known, and .gguf files."""
    from asteady._engine.models.catalogue import KNOWN
    from asteady._engine.models.hub import cached_models

    names = {*NAMED_MODELS, *(known.reference for known in KNOWN)}
    with suppress(Exception):  # what is wrong with the hub's cache is said by other commands
        names |= {model.reference for model in cached_models()}
    files = complete_file(prefix, lambda name: name.endswith(".gguf"))
    if not prefix:
        # Directories would hide the names.
        files = [file for file in files if not file.endswith(os.sep)]
    return [*sorted(name for name in names if name.startswith(prefix)), *files]
