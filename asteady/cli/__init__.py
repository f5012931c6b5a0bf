"""The command line: ``asteady`` and ``python -m asteady``.

This module and those above it import nothing that takes time, so that Ctrl-C is handled soon after
Python itself has started.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_INTERRUPTED = "asteady: interrupted\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit code: docs/cli.md has them."""
    try:
        if arguments is not None:
            from asteady.cli import _main

            return _main.main(arguments)
        return _as_program()
    except KeyboardInterrupt:
        if sys.stderr is not None:
            try:
                sys.stderr.write(_INTERRUPTED)
                sys.stderr.flush()
            except OSError:  # the terminal has gone
                pass
        return 130


def _as_program() -> int:
    """Run the command of this process.

    Until the command begins, and when it is done and Python ends, Ctrl-C ends the process at once.
    A `KeyboardInterrupt` would not do: in a callback of the import system, or while threads are
    joined at exit, Python prints it, with a traceback, and goes on; and it may leave the lock of an
    import held, for which the exit would wait.
    """
    import os
    import signal

    def end(*_: object) -> None:
        try:
            os.write(2, _INTERRUPTED.encode())
        finally:
            os._exit(130)

    try:
        ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if ours:  # else it is ignored, or handled by somebody else
            signal.signal(signal.SIGINT, end)
    except ValueError:
        ours = False  # not the main thread, so no signal interrupts it
    from asteady.cli import _main

    def unraisable(args: sys.UnraisableHookArgs) -> None:
        if args.exc_type is KeyboardInterrupt:  # in such a callback, of an import of the command
            end()
        sys.__unraisablehook__(args)

    def begin() -> None:
        if ours:
            sys.unraisablehook = unraisable
            signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        return _main.main(begin=begin)
    finally:
        if ours:
            signal.signal(signal.SIGINT, end)
