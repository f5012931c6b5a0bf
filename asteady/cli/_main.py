"""The argument parser and the exit codes.

0 success, 1 failure, 2 wrong usage, 130 interrupted, 141 the reader of standard output has gone.
Commands that compare are as diff(1): 1 means a difference, and a failure of theirs is 2.
Data goes to standard output, everything else to standard error.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress

from asteady._base.errors import AsteadyError
from asteady.cli import (
    _bench,
    _cache,
    _completion,
    _fingerprint,
    _generate,
    _models,
    _serve,
    _tokens,
    _verify,
    _warm,
)
from asteady.cli._output import prepare_streams
from asteady.cli._parser import Parser

_FAILURE = 1
# As of a program that SIGPIPE ends, which is what shells expect here.
READER_GONE = 141

_EPILOG = """\
exit codes:
  0    success
  1    failure; of verify and fingerprint --compare: a difference
  2    wrong usage; of verify and fingerprint: any failure
  130  interrupted by Ctrl-C
  141  the reader of standard output has gone

Settings come from ASTEADY_* variables: docs/configuration.md. Commands: docs/cli.md."""


def main(arguments: Sequence[str] | None = None, begin: Callable[[], None] = lambda: None) -> int:
    """Run one command, and return its exit code; `begin` is called when it begins."""
    prepare_streams()
    options = argparse.Namespace(failure=_FAILURE)
    try:
        try:
            code = _run(arguments, options, begin)
        except SystemExit as exc:  # of argparse, which has printed why
            code = exc.code if isinstance(exc.code, int) else 1
        if sys.stdout is not None:
            sys.stdout.flush()
    except AsteadyError as exc:
        return _failed(str(exc), options)
    except OSError as exc:
        _discard_unwritten()
        if _is_closed_pipe(exc):
            return READER_GONE
        # Without the errno, which does not help the user.
        reason = exc.strerror or str(exc)
        return _failed(f"{exc.filename}: {reason}" if exc.filename else reason, options)
    except KeyboardInterrupt:
        _discard_unwritten()
        raise
    except Exception:
        if options.failure == _FAILURE:
            raise  # Python prints it, and ends with the same code
        traceback.print_exc()
        code = options.failure
    return code


def _run(
    arguments: Sequence[str] | None, options: argparse.Namespace, begin: Callable[[], None]
) -> int:
    """Parse the arguments into `options`, and run their command."""
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:
        _completion.complete(parser)
    parser.parse_args(arguments, options)
    if sys.stdout is None:
        return _failed("standard output is closed", options)
    begin()
    result: int = options.run(options)
    return result


def _failed(message: str, options: argparse.Namespace) -> int:
    with suppress(OSError):
        print(f"asteady: {message}", file=sys.stderr, flush=True)
    code: int = options.failure
    return code


def _is_closed_pipe(exc: OSError) -> bool:
    windows = os.name == "nt" and exc.errno == errno.EINVAL and exc.filename is None
    return isinstance(exc, BrokenPipeError) or windows


def _discard_unwritten() -> None:
    """Let what cannot be written be lost, quietly: at exit Python would try again and complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version  # takes a while

        print(f"asteady {version('asteady')}")
        parser.exit()


class _Program(Parser):
    """The parser of all commands. Its help says where the documentation is."""

    def format_help(self) -> str:
        from importlib.metadata import metadata  # takes a while

        lines = [super().format_help()]
        for line in metadata("asteady").get_all("Project-URL", ()):
            name, url = line.split(", ")
            if name == "Documentation":
                lines.append(f"{name}: {url}\n")
        return "".join(lines)


def build_parser() -> Parser:
    """The parser of all commands. Building it takes no import that is slow: completion does it at
    each press of the key."""
    parser = _Program(
        prog="asteady",
        description="Deterministic, cached text and embeddings from local language models.",
        examples=(
            'asteady generate "Write a haiku about caching" --model smollm2',
            "asteady models list",
            "asteady serve --model smollm2",
        ),
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_commands("commands", "COMMAND")
    for command in (
        _generate,
        _tokens,
        _models,
        _cache,
        _fingerprint,
        _serve,
        _warm,
        _bench,
        _verify,
        _completion,
    ):
        command.add_parser(commands)
    return parser
