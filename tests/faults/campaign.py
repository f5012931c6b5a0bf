"""How long the fault campaign runs: short in the suite, long by ``nox -s campaign``."""

from __future__ import annotations

import os

LONG = os.environ.get("CAMPAIGN") == "long"


def rounds(short: int, long: int) -> int:
    """The number of rounds of one test: `short` in the suite, `long` in the campaign."""
    return long if LONG else short
