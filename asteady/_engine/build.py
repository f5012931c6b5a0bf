"""The llama.cpp libraries that are installed, and the CPU: what a build is known again by."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

import attrs

from asteady._base.errors import EngineError
from asteady._base.files import Identity, settled_identity

_NAMES = {"libllama", "libggml", "llama", "ggml"}
_SUFFIXES = {".so", ".dylib", ".dll"}

LLAMA_REQUIREMENT = "llama-cpp-python>=0.3.36,<0.4"
_INSTALL = f'python -m pip install "{LLAMA_REQUIREMENT}"'
# Compiles here: pip keeps the wheel that it built, and a cache may be of another machine.
REBUILD = (
    "python -m pip install --force-reinstall --no-deps --no-cache-dir "
    f'--no-binary llama-cpp-python "{LLAMA_REQUIREMENT}"'
)


REPLACED = "llama-cpp-python was replaced after this process had loaded it: start it again"


@attrs.frozen
class Library:
    path: Path
    identity: Identity


def libraries() -> list[Library]:
    """llama.cpp's libraries, sorted by path; mtmd (images) is not used.

    A library loads the others by their versioned names, which may be files of their own.

    Raises:
        EngineError: llama-cpp-python is not installed.
    """
    override = os.environ.get("LLAMA_CPP_LIB_PATH")
    if override:
        folder = Path(override)
    else:
        spec = importlib.util.find_spec("llama_cpp")
        if spec is None or spec.origin is None:
            raise EngineError(f"llama-cpp-python is not installed: {_INSTALL}")
        folder = Path(spec.origin).parent / "lib"
    try:
        paths = sorted(folder.iterdir())
    except OSError as exc:
        raise import_failed(exc) from exc
    found = []
    for path in paths:
        stem = path.name.split(".")[0]
        if (stem in _NAMES or stem.startswith(("libggml-", "ggml-"))) and _SUFFIXES.intersection(
            path.suffixes
        ):
            found.append(Library(path, Identity.of(path.stat())))
    return found


def has_replaced(found: Sequence[Library]) -> bool:
    """Whether this process has loaded other files than these, which were at their paths before.

    False where the system does not tell: elsewhere than on Linux.
    """
    try:
        mapped = Path("/proc/self/maps").read_bytes()
    except OSError:  # pragma: no cover  # other systems than Linux
        return False
    # 7f3a4c000000-7f3a4c021000 r-xp 00021000 fe:00 2277479    /path/libllama.so (deleted)
    names = {line.split(maxsplit=5)[-1] for line in mapped.splitlines()}
    return any(os.fsencode(os.path.realpath(each.path)) + b" (deleted)" in names for each in found)


def digest_of(found: Sequence[Library]) -> str:
    """The SHA-256 of the libraries' names and contents. Blocks.

    Raises:
        EngineError: one was replaced or written to since it was found.
    """
    digest = hashlib.sha256()
    for library in found:
        with library.path.open("rb") as stream:
            known = settled_identity(stream.fileno())
            content = hashlib.file_digest(stream, "sha256").digest()
            if not known == Identity.of(os.fstat(stream.fileno())) == library.identity:
                raise EngineError(f"{library.path} was replaced while it was read: call again")
        digest.update(library.path.name.encode() + b"\0" + content)
    return digest.hexdigest()


def import_failed(exc: Exception) -> EngineError:
    """The error for a llama_cpp that cannot be imported: the reason, and what to do about it."""
    return EngineError(f"llama.cpp cannot be loaded: {_remedied(exc)}")


def _remedied(exc: Exception) -> str:
    reason = " ".join(str(exc).split())
    if isinstance(exc, ModuleNotFoundError):
        # What it requires, where it was installed with --no-deps.
        return f"{reason}; install what it requires: {_INSTALL}"
    if isinstance(exc, OSError) and os.environ.get("LLAMA_CPP_LIB_PATH"):
        return f"{reason}; LLAMA_CPP_LIB_PATH must be the folder of its libraries, or unset"
    missing = re.search(r"(lib[\w.+-]+): cannot open shared object file", reason)
    if missing is None:
        return f"{reason}; compile it for this machine: {REBUILD}"
    if missing[1].startswith("libgomp"):
        return (
            f"{reason}; install OpenMP's library: apt-get install libgomp1 (Debian, Ubuntu), "
            "dnf install libgomp (Fedora), apk add libgomp (Alpine)"
        )
    return f"{reason}; install that library, or compile llama.cpp for this machine: {REBUILD}"


def processor() -> str:
    """The CPU's model and features, as text."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # pragma: no cover  # other systems than Linux
        return f"{platform.machine()} {platform.processor()}"
    first = text.split("\n\n", 1)[0]
    wanted = {"vendor_id", "cpu family", "model", "flags"}
    wanted |= {"Features", "CPU implementer", "CPU part"}  # of ARM
    lines = [line for line in first.splitlines() if line.split("\t", 1)[0].strip() in wanted]
    return "\n".join([platform.machine(), *lines])
