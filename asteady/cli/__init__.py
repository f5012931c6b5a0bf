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
    """Run one command, and return its exit code."""
    try:
        if arguments is None:
            _import_as_program()
        from asteady.cli import _main

        return _main.main(arguments)
    except KeyboardInterrupt:
        if sys.stderr is not None:
            sys.stderr.write(_INTERRUPTED)
        return 130


def _import_as_program() -> None:
    """Import the commands; Ctrl-C meanwhile ends the process.

    A `KeyboardInterrupt` would not do: in a callback of the import system Python prints it, with a
    traceback, and goes on.
    """
    import os
    import signal

    def end(*_: object) -> None:
        os.write(2, _INTERRUPTED.encode())
        os._exit(130)

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return  # ignored, or handled by somebody else
    try:
        signal.signal(signal.SIGINT, end)
    except ValueError:
        return  # not the main thread, so no signal interrupts it
    try:
        from asteady.cli import _main  # noqa: F401
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
