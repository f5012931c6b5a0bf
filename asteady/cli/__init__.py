"""The command line: ``asteady`` and ``python -m asteady``."""

from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit code."""
    try:
        # Imported here, so that an interrupt during the import also ends without a traceback.
        from asteady.cli import _main

        return _main.main(arguments)
    except KeyboardInterrupt:
        return 130
