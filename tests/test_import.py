"""What importing costs, and what the package shows."""

from __future__ import annotations

import subprocess
import sys


def modules_after(statement: str) -> set[str]:
    # What was there before does not count: measuring coverage loads sqlite3, for one.
    program = (
        f"import sys\nbefore = set(sys.modules)\n{statement}\nprint(*set(sys.modules) - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_importing_loads_neither_llama_cpp_nor_numpy() -> None:
    assert not {name for name in modules_after("import asteady") if "._session" in name}
    loaded = modules_after("from asteady import Session")
    assert "asteady._session.session" in loaded
    late = {"llama_cpp", "numpy", "aiosqlite", "sqlite3", "filelock", "jinja2", "platformdirs"}
    late |= {"asteady._engine.loader", "asteady._engine.models.resolve"}
    assert not late & loaded


def test_a_remembered_answer_needs_no_llama_cpp() -> None:
    program = """
import asyncio, asteady
async def main():
    async with asteady.Session() as session:
        print("answer", await session.generate("hi", max_new_tokens=3))
asyncio.run(main())
print("llama_cpp" in sys.modules)
"""
    runs = [
        subprocess.run(
            [sys.executable, "-c", f"import sys\n{program}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    assert runs[0].endswith("True\n")
    assert runs[1].endswith("False\n")
    assert runs[0].removesuffix("True\n") == runs[1].removesuffix("False\n")
