"""No module of the package uses a private name of another module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "asteady"

# Private parts of other libraries, each used in one place, which says why.
ALLOWED = {
    ("_base/tasks.py", "_log_destroy_pending"),  # asyncio has no public switch
    # Public functions of os and of the C library, whose names begin so.
    ("_base/threads.py", "_exit"),
    ("cli/__init__.py", "_exit"),
    ("cli/_completion.py", "_exit"),
    ("server/_process/run.py", "_exit"),
    # argparse: there is no public way to walk a parser.
    ("cli/_completion.py", "_actions"),
    ("cli/_completion.py", "_SubParsersAction"),
    # llguidance: the file of its extension module, which has its C interface.
    ("_engine/output/guidance.py", "_lib"),
    # aiosqlite: whole transactions as one call on its thread, which is made a daemon.
    *(
        ("_cache/store/sqlite_thread.py", name)
        for name in ("_STOP_RUNNING_SENTINEL", "_conn", "_execute", "_running", "_thread", "_tx")
    ),
}


def names_of(tree: ast.Module) -> set[str]:
    """The private names that a module defines itself."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls", "session"):
                names.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)  # __slots__
    return names


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def reaches(source: str) -> Iterator[tuple[int, str]]:
    """Lines and names of the accesses to private names that the module does not define."""
    tree = ast.parse(source)
    own = names_of(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr):
            on_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if not on_self and node.attr not in own:
                yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if private(alias.name) and not is_module(node.module, alias.name):
                    yield node.lineno, alias.name


def is_module(package: str, name: str) -> bool:
    path = PACKAGE.parent / package.replace(".", "/") / name
    return path.is_dir() or path.with_suffix(".py").is_file()


def test_what_counts_as_a_reach() -> None:
    source = """
from asteady._session import _hidden, flight
from asteady.cli import _main
class Own:
    def __init__(self, other):
        self._mine = other._theirs
        other._mine
        super()._base
"""
    assert list(reaches(source)) == [(2, "_hidden"), (6, "_theirs"), (8, "_base")]


def test_no_module_reaches_into_another_one() -> None:
    found = [
        f"{path}:{line} {name}"
        for file in sorted(PACKAGE.rglob("*.py"))
        if "training" not in file.parts
        for path in [file.relative_to(PACKAGE).as_posix()]
        for line, name in reaches(file.read_text("utf-8"))
        if (path, name) not in ALLOWED
    ]
    assert found == []
