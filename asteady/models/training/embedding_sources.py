"""Sentences and function/docstring pairs from the installed Python and permissively licensed
packages, read as source text (`ast`); nothing that is read here is imported or executed."""

from __future__ import annotations

import ast
import inspect
import re
import sysconfig
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

# Package -> (distribution, licence). All permissive; the card names them with their versions.
PACKAGES = {
    "torch": ("torch", "BSD-3-Clause"),
    "numpy": ("numpy", "BSD-3-Clause"),
    "sympy": ("sympy", "BSD-3-Clause"),
    "networkx": ("networkx", "BSD-3-Clause"),
    "jinja2": ("Jinja2", "BSD-3-Clause"),
    "click": ("click", "BSD-3-Clause"),
    "mpmath": ("mpmath", "BSD-3-Clause"),
    "anyio": ("anyio", "MIT"),
    "requests": ("requests", "Apache-2.0"),
    "huggingface_hub": ("huggingface_hub", "Apache-2.0"),
    "setuptools": ("setuptools", "MIT"),
}
_SKIP = {
    "test",
    "tests",
    "testing",
    "idlelib",
    "turtledemo",
    "site-packages",
    "_vendor",
    "vendored",
}
# Modules written in C: their docstrings are not in any source file.
_COMPILED = """
builtins math cmath itertools _functools _operator time zlib array select _socket binascii
_struct _collections _io posix sys gc marshal signal errno fcntl resource unicodedata mmap
_datetime _json _csv _bisect _heapq _random atexit
"""

_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`'\"(])")
_MARKUP = re.compile(r":[a-z:]+:`~?([^`]*)`|``([^`]*)``|`([^`]*)`|\*\*([^*]+)\*\*")


class Function(NamedTuple):
    """A function as a reader meets it: where it lives, its signature, its first sentence."""

    module: str
    signature: str
    summary: str


class Document(NamedTuple):
    """The sentences of one docstring or section, in their order."""

    origin: str
    sentences: list[str]


def plain(text: str) -> str:
    """Text without reStructuredText markup and runs of white space."""
    unmarked = _MARKUP.sub(lambda m: next((g for g in m.groups() if g), ""), text)
    return " ".join(unmarked.split())


def is_prose(sentence: str) -> bool:
    """Whether a line reads like a sentence and not like code, a table or a directive."""
    if not 15 <= len(sentence) <= 300 or sentence.startswith((">>>", "..", "|", "+", "-", "=")):
        return False
    letters = sum(char.isalpha() or char == " " for char in sentence)
    return letters / len(sentence) > 0.8 and sentence.count(" ") >= 2


def sentences(text: str) -> list[str]:
    """The prose sentences of a docstring."""
    out: list[str] = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if paragraph.lstrip().startswith((">>>", "..")):
            continue
        out += [s for s in _END.split(plain(paragraph)) if is_prose(s)]
    return out


def _files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*.py")):
        if not _SKIP & set(path.relative_to(root).parts):
            yield path


def roots() -> dict[str, Path]:
    """Name -> folder of every source at hand, the standard library first."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    found = {"python": stdlib}
    for name in PACKAGES:
        folder = Path(sysconfig.get_path("purelib")) / name
        if folder.is_dir():
            found[name] = folder
    return found


def versions() -> dict[str, str]:
    """Distribution -> "version (licence)" of every package that is read."""
    out: dict[str, str] = {}
    for name in roots():
        if name in PACKAGES:
            dist, licence = PACKAGES[name]
            try:
                out[dist] = f"{distribution(dist).version} ({licence})"
            except PackageNotFoundError:
                continue
    return out


def _summary(doc: str) -> str:
    first = re.split(r"\n\s*\n", inspect.cleandoc(doc))[0]
    return _END.split(plain(first))[0]


def _visit(tree: ast.AST, module: str) -> Iterator[tuple[str, str, str]]:
    """(qualified name, signature, docstring) of every documented definition."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            doc = ast.get_docstring(node, clean=False)
            if doc:
                names = [a.arg for a in node.args.args if a.arg not in ("self", "cls")]
                names += [a.arg for a in node.args.kwonlyargs]
                yield f"{module}.{node.name}", f"{node.name}({', '.join(names)})", doc
        elif isinstance(node, ast.ClassDef):
            doc = ast.get_docstring(node, clean=False)
            if doc:
                yield f"{module}.{node.name}", f"class {node.name}", doc
            yield from _visit(node, f"{module}.{node.name}")
        else:
            yield from _visit(node, module)


def _compiled() -> Iterator[tuple[str, str, str]]:
    for name in _COMPILED.split():
        try:
            module = __import__(name)
        except ImportError:
            continue
        for attribute, value in sorted(vars(module).items()):
            doc = getattr(value, "__doc__", None)
            if attribute.startswith("_") or not callable(value) or not isinstance(doc, str):
                continue
            signature = getattr(value, "__text_signature__", None) or "()"
            arguments = re.sub(r"\$\w+,? ?|, /|/", "", signature)
            yield f"{name}.{attribute}", f"{attribute}{arguments}", doc


def _topics() -> Iterator[Document]:
    """The language reference that ships as pydoc's topics."""
    from pydoc_data.topics import topics

    for name, text in sorted(topics.items()):
        found = sentences(text)
        for start in range(0, len(found), 8):
            yield Document(f"python.topics.{name}", found[start : start + 8])


def collect() -> tuple[list[Function], list[Document]]:
    """Every function pair and every document, in a fixed order, without repeated texts."""
    functions: list[Function] = []
    documents: list[Document] = list(_topics())
    seen_pairs: set[str] = set()
    seen_docs: set[str] = set()

    def take(qualified: str, signature: str, doc: str) -> None:
        if doc in seen_docs:
            return
        seen_docs.add(doc)
        prose = sentences(doc)
        if prose:
            documents.append(Document(qualified, prose))
        summary = _summary(doc)
        if is_prose(summary) and summary not in seen_pairs and len(signature) < 120:
            seen_pairs.add(summary)
            functions.append(Function(qualified, signature, summary))

    for found in _compiled():
        take(*found)
    for name, root in roots().items():
        for path in _files(root):
            try:
                tree = ast.parse(path.read_text(encoding="utf-8"))
            except (SyntaxError, UnicodeDecodeError, ValueError):
                continue
            module = f"{name}.{'.'.join(path.relative_to(root).with_suffix('').parts)}"
            doc = ast.get_docstring(tree, clean=False)
            if doc:
                take(module, f"module {path.stem}", doc)
            for definition in _visit(tree, module):
                take(*definition)
    return functions, documents
