"""The fingerprint of an engine, computed without loading weights, nor llama.cpp when it is known.

Everything that can change a byte of an answer is in it: the model file (and with it the chat
template), llama.cpp's libraries and the CPU features that they use, and the constants below.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
from pathlib import Path

import attrs

from asteady._errors import EngineError
from asteady.engine._models import ModelFile
from asteady.engine._remember import recall, remember

PIECE_TOKENS = 512
"""A prompt is computed in pieces of this many tokens: how it is cut changes the result. 512 is
llama.cpp's own default for a physical batch."""

# Raise it when asteady changes how it tokenises, samples, detokenises, stops or pools.
_WAYS_VERSION = 1

_BUILDS_FILE = "builds.json"


@attrs.frozen(kw_only=True)
class EngineOptions:
    """How an engine is set up.

    `context_tokens` bounds the positions of one request, prompt and answer together: 4096 holds a
    long conversation while the contexts of 4 workers of a 1B model stay within 1 GB. A model that
    was trained on fewer has fewer. It can change an answer (where it ends), so it is in the
    fingerprint. `threads` per worker cannot, while flash attention is off.
    """

    context_tokens: int = 4096
    threads: int = 1
    width: int = 1
    repack: bool = False

    def described(self) -> dict[str, object]:
        """What of this is part of the fingerprint."""
        return {
            "context_tokens": self.context_tokens,
            "width": self.width,
            "repack": self.repack,
            "piece_tokens": PIECE_TOKENS,
            "flash_attention": False,
            "kv_unified": False,
            "ways": _WAYS_VERSION,
        }


def fingerprint_of(model: ModelFile, options: EngineOptions, cache_dir: Path) -> str:
    """64 hexadecimal digits. Blocks: reads small files, and imports llama.cpp once per build.

    Raises:
        EngineError: llama-cpp-python is not installed.
    """
    described = json.dumps(
        {"model": model.sha256, "build": build_of(cache_dir), **options.described()},
        sort_keys=True,
    )
    return hashlib.sha256(described.encode()).hexdigest()


def build_of(cache_dir: Path) -> dict[str, str]:
    """The llama.cpp build on this CPU: the libraries' digest, its version and system information.

    Importing llama_cpp to ask costs 0.2 s, so the reply is remembered by what it depends on: the
    libraries' paths, sizes and times, and the CPU's model and features.
    """
    key = _build_key(_libraries())
    known = recall(cache_dir / _BUILDS_FILE, key)
    if isinstance(known, dict) and set(known) == {"libraries", "version", "system"}:
        return {name: str(value) for name, value in known.items()}
    from asteady.engine._llama_lib import version_and_system

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


_LIBRARY_NAMES = ("llama", "ggml")


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
