"""Prose of the Python standard library: docstrings and the language reference in pydoc's topics.

Read from the running interpreter's own library at training time; nothing of it is stored in the
repository. (Python Software Foundation licence.)
"""

from __future__ import annotations

import ast
import inspect
import random
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

SKIPPED = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "turtledemo"}


def _sources() -> Iterator[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if not SKIPPED.intersection(path.relative_to(root).parts):
            yield path


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text
        # pydoc's topics are one dictionary of long strings.
        elif isinstance(node, ast.Dict) and path.parent.name == "pydoc_data":
            for value in node.values:
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield value.value


def _paragraphs(text: str) -> Iterator[str]:
    """Paragraphs that read like sentences; tables, doctests and grammar rules are left out."""
    for part in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        joined = " ".join(part.split()).replace('"', "")
        words = joined.split()
        plain = sum(word.strip(".,;:()'").isalpha() for word in words)
        if len(words) >= 8 and plain >= 0.85 * len(words) and joined[-1] in ".:" and (
            joined[0].isupper() and ">>>" not in joined and "::" not in joined and "_" not in joined
            and "**" not in joined
        ):  # fmt: skip
            yield joined


def prose(seed: int) -> list[str]:
    """Documents of one to four paragraphs each, without repeats, in an order set by the seed."""
    seen: set[str] = set()
    documents = []
    for path in _sources():
        for text in _docstrings(path):
            fresh = [p for p in _paragraphs(text) if p not in seen]
            seen.update(fresh)
            documents += ["\n\n".join(fresh[i : i + 4]) for i in range(0, len(fresh), 4)]
    random.Random(f"prose-{seed}").shuffle(documents)
    return documents
