"""``python -m tests.benchmarks NAME ...``: run one of the benchmarks here, or list them."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

HERE = Path(__file__).parent


def names() -> list[str]:
    """The files that can be run on their own."""
    return sorted(
        file.stem
        for file in HERE.glob("[a-z]*.py")
        if 'if __name__ == "__main__":' in file.read_text("utf-8")
    )


if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else "--list"
    if name not in names():
        sys.exit(f"usage: nox -s bench -- NAME [ARGUMENTS]; the names are: {', '.join(names())}")
    # The benchmark sees its own arguments only, and says its own name in its help.
    sys.argv = [f"tests.benchmarks.{name}", *sys.argv[2:]]
    runpy.run_module(f"tests.benchmarks.{name}", run_name="__main__", alter_sys=True)
