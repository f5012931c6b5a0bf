"""Which llama.cpp this is, and on which CPU; told without importing it where that is known."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
from pathlib import Path

from asteady._base.errors import EngineError
from asteady._base.files import recall, remember

_BUILDS_FILE = "builds.json"
_LIBRARY_NAMES = ("llama", "ggml")


def build_of(cache_dir: Path) -> dict[str, str]:
    """The llama.cpp build on this CPU: the libraries' digest, its version and system information.

    Importing llama_cpp to ask costs 0.2 s, so the reply is remembered by what it depends on: the
    libraries' paths, sizes and times, and the CPU's model and features.
    """
    key = _build_key(_libraries())
    known = recall(cache_dir / _BUILDS_FILE, key)
    if isinstance(known, dict) and set(known) == {"libraries", "version", "system"}:
        return {name: str(value) for name, value in known.items()}
    from asteady._engine.llama.lib import version_and_system

    digest = hashlib.sha256()
    for library in _libraries():
        with library.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    version, system = version_and_system()
    build = {"libraries": digest.hexdigest(), "version": version, "system": system}
    remember(cache_dir / _BUILDS_FILE, key, build)
    return build


def _libraries() -> list[Path]:
    override = os.environ.get("LLAMA_CPP_LIB_PATH")
    if override:
        folder = Path(override)
    else:
        spec = importlib.util.find_spec("llama_cpp")
        if spec is None or spec.origin is None:
            raise EngineError("llama-cpp-python is not installed: pip install llama-cpp-python")
        folder = Path(spec.origin).parent / "lib"
    # The versioned names beside them are copies or links. mtmd (images) takes no part.
    names = {f"{prefix}{name}" for prefix in ("lib", "") for name in _LIBRARY_NAMES}
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix in (".so", ".dylib", ".dll")
        and (path.stem in names or path.stem.startswith(("libggml-", "ggml-")))
    )


def _build_key(libraries: list[Path]) -> str:
    parts = []
    for library in libraries:
        status = library.stat()
        parts.append(f"{library} {status.st_size} {status.st_mtime_ns}")
    parts.append(_processor())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _processor() -> str:
    """The CPU's model and features, as text."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # pragma: no cover  # other systems than Linux
        return f"{platform.machine()} {platform.processor()}"
    first = text.split("\n\n", 1)[0]
    wanted = (
        "vendor_id",
        "cpu family",
        "model",
        "flags",
        "Features",
        "CPU implementer",
        "CPU part",
    )
    lines = [line for line in first.splitlines() if line.split("\t", 1)[0].strip() in wanted]
    return "\n".join([platform.machine(), *lines])
