"""The argument parser and the exit codes: 0 success, 1 failure, 2 wrong usage, 130 interrupted.

Data goes to standard output, everything else to standard error.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from asteady._base.errors import AsteadyError
from asteady.cli import _bench, _cache, _generate, _models, _tokens, _verify, _warm


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit code."""
    if sys.stderr is None:
        # `print` would take standard output in its place.
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # until the process ends
    parser = _parser()
    options = parser.parse_args(arguments)
    if sys.stdout is None:
        print("asteady: standard output is closed", file=sys.stderr)
        return 1
    try:
        result: int = options.run(options)
        sys.stdout.flush()
    except AsteadyError as exc:
        print(f"asteady: {exc}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader has closed the pipe. Without this, flushing at exit would raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as exc:
        # Without the errno, which does not help the user.
        reason = f"{exc.filename}: {exc.strerror}" if exc.filename and exc.strerror else exc
        print(f"asteady: {reason}", file=sys.stderr)
        return 1
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="asteady",
        description="Deterministic, cached text and embeddings from local language models.",
        epilog="Settings come from ASTEADY_* variables; see docs/configuration.md.",
    )
    parser.add_argument("--version", action="version", version=f"asteady {version('asteady')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (_generate, _tokens, _models, _cache, _warm, _bench, _verify):
        command.add_parser(commands)
    return parser
