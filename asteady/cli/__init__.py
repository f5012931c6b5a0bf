"""The command line: ``asteady`` and ``python -m asteady``."""

from asteady.cli._main import main

__all__ = ["main"]
