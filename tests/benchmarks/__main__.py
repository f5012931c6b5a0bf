"""``python -m tests.benchmarks NAME [--figures FILE] ...``: run a benchmark, or list them.

``--figures`` also writes the tables to a JSON file; ``plots`` draws such figures.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

from tests.benchmarks import harness

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
    figures = None
    if "--figures" in sys.argv:
        place = sys.argv.index("--figures")
        figures = Path(sys.argv[place + 1])
        del sys.argv[place : place + 2]
    # The benchmark sees its own arguments only, and says its own name in its help.
    sys.argv = [f"tests.benchmarks.{name}", *sys.argv[2:]]
    runpy.run_module(f"tests.benchmarks.{name}", run_name="__main__", alter_sys=True)
    if figures is not None:
        text = json.dumps(harness.FIGURES, indent=1, ensure_ascii=False)
        figures.write_text(text + "\n", "utf-8")
