"""Loads engines and computes their fingerprints, without importing llama.cpp where it is known.

What an engine computes depends on the model file, the llama.cpp build, the CPU and the constants
below. The build and the probe of a model are remembered in the cache directory, so a program whose
answers are all cached never imports llama_cpp.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import platform
import threading
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import attrs

from asteady._base.errors import EngineError
from asteady._base.files import recall, remember
from asteady._base.requests import Kind
from asteady._base.settings import Settings
from asteady._engine.api import PIECE_TOKENS, Engine
from asteady._engine.models.hub import resolve_hub
from asteady._engine.models.resolve import ModelFile, resolve_model
from asteady._engine.plan import EngineOptions, ProbeReport, Setup, choose

if TYPE_CHECKING:
    from asteady._engine.llama.engine import LlamaEngine

_log = logging.getLogger("asteady")

# Raise it when asteady changes how it tokenises, samples, detokenises, stops or pools.
_WAYS_VERSION = 2
# Raise it when the probe or the choice of the setup changes.
_PROBE_VERSION = 2

# Weights of these types are multiplied by other code for one column than for several, so a batch
# never gave the bits that its sequences get alone.
_NEVER_EQUAL = frozenset({"F32", "F16", "BF16"})

_PROBES_FILE = "probes.json"
_BUILDS_FILE = "builds.json"

_probing = threading.Lock()


class LlamaSource:
    """The `EngineSource` of real sessions: GGUF models in llama.cpp, as the settings say."""

    def __init__(self, settings: Settings) -> None:
        self._options = EngineOptions.of(settings)
        self._cache_dir = settings.cache_dir

    def fingerprint(self, kind: Kind, reference: str) -> str:
        return fingerprint_of(self._file(kind, reference), self._options, self._cache_dir)

    def load(self, kind: Kind, reference: str) -> Engine:
        return load_engine(self._file(kind, reference), self._options, self._cache_dir)

    def fetch(self, reference: str, stopped: Callable[[], bool]) -> None:
        if reference.startswith("hf:"):
            resolve_hub(reference, self._cache_dir, stopped=stopped)

    def _file(self, kind: Kind, reference: str) -> ModelFile:
        return resolve_model(reference, kind=kind, cache_dir=self._cache_dir)


def load_engine(
    model: ModelFile, options: EngineOptions, cache_dir: Path, setup: Setup | None = None
) -> LlamaEngine:
    """Load the weights, after a probe if this build has not met this model. Blocks for as long as
    reading the file takes. `setup` says how to compute and replaces the probe.

    Raises as `fingerprint_of` does, and a ModelCapabilityError for a kind of model that asteady
    does not serve.
    """
    # Importing llama.cpp takes 0.2 s.
    from asteady._engine.llama.engine import LlamaEngine

    began = perf_counter()
    if setup is None:
        setup = probe_report(model, options, cache_dir).setup
    fingerprint = fingerprint_of(model, options, cache_dir, setup)
    engine = LlamaEngine(model, options, setup, fingerprint)
    _log.info("loaded %s in %.2f s (%s)", model.path, perf_counter() - began, setup)
    return engine


def fingerprint_of(
    model: ModelFile, options: EngineOptions, cache_dir: Path, setup: Setup | None = None
) -> str:
    """The fingerprint of an engine, 64 hexadecimal digits, without loading weights.

    Blocks: reads small files. The first time that this build meets this model, it is loaded and
    probed, unless `setup` says how the engine computes.

    Raises:
        EngineError: llama-cpp-python is not installed, or failed in the probe.
        ModelFormatError: llama.cpp cannot load the file.
    """
    if setup is None:
        setup = probe_report(model, options, cache_dir).setup
    described = json.dumps(
        {
            "model": model.sha256,
            "build": build_of(cache_dir),
            "context_tokens": options.context_tokens,
            "width": setup.width,
            "repack": setup.repack,
            "piece_tokens": PIECE_TOKENS,
            "flash_attention": False,
            "kv_unified": False,
            "ways": _WAYS_VERSION,
            **({"gpu_layers": options.gpu_layers} if options.gpu_layers else {}),
        },
        sort_keys=True,
    )
    return hashlib.sha256(described.encode()).hexdigest()


def probe_report(model: ModelFile, options: EngineOptions, cache_dir: Path) -> ProbeReport:
    """How this model computes on this machine: the remembered probe, or a new one. Blocks.

    Raises as `fingerprint_of` does.
    """
    header = model.header
    if header.kind == "embedding":
        return ProbeReport(setup=Setup(), reason="texts are embedded one at a time")
    if not options.probe:
        return ProbeReport(setup=Setup(), reason="the probe is switched off (ASTEADY_PROBE)")
    if _NEVER_EQUAL.issuperset(header.matrix_types):
        types = "/".join(header.matrix_types)
        return ProbeReport(setup=Setup(), reason=f"{types} weights differ in any batch")
    limit = options.width_limit(header.kv_bytes_per_token, header.context_length)
    build = build_of(cache_dir)
    parts: list[object] = [_PROBE_VERSION, model.sha256, limit, build]
    if options.gpu_layers:
        parts.append(options.gpu_layers)
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    file = cache_dir / _PROBES_FILE
    # One probe at a time in a process: a second caller for the same model finds it remembered.
    with _probing:
        known = ProbeReport.restore(recall(file, key))
        if known is not None:
            return known
        from asteady._engine.llama.probe import probe

        # Repacking is for the CPU, and a build that reports AMX crashes with repacked weights.
        repackable = "AMX_INT8 = 1" not in build["system"] and not options.gpu_layers
        layouts, took_s = probe(
            model, limit, options.threads, repackable=repackable, gpu_layers=options.gpu_layers
        )
        report = ProbeReport(setup=choose(layouts), layouts=layouts, took_s=took_s)
        remember(file, key, attrs.asdict(report))
        return report


def build_of(cache_dir: Path) -> dict[str, str]:
    """The llama.cpp build on this CPU: the libraries' digest, its version and system information.

    Importing llama_cpp takes 0.2 s, so the result is remembered by what it depends on: the
    libraries' paths, sizes and times, and the CPU's model and features.

    Raises:
        EngineError: llama-cpp-python is not installed.
    """
    libraries = _libraries()
    files = [(library, library.stat()) for library in libraries]
    parts = [f"{library} {status.st_size} {status.st_mtime_ns}" for library, status in files]
    key = hashlib.sha256("\n".join([*parts, processor()]).encode()).hexdigest()
    known = recall(cache_dir / _BUILDS_FILE, key)
    if isinstance(known, dict) and set(known) == {"libraries", "version", "system"}:
        return {name: str(value) for name, value in known.items()}
    from asteady._engine.llama.lib import version_and_system

    digest = hashlib.sha256()
    for library in libraries:
        with library.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    version, system = version_and_system()
    build = {"libraries": digest.hexdigest(), "version": version, "system": system}
    remember(cache_dir / _BUILDS_FILE, key, build)
    return build


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


def _libraries() -> list[Path]:
    """llama.cpp's libraries, sorted by path."""
    override = os.environ.get("LLAMA_CPP_LIB_PATH")
    if override:
        folder = Path(override)
    else:
        spec = importlib.util.find_spec("llama_cpp")
        if spec is None or spec.origin is None:
            raise EngineError("llama-cpp-python is not installed: pip install llama-cpp-python")
        folder = Path(spec.origin).parent / "lib"
    # The versioned names beside them are copies or links. mtmd (images) is not used.
    names = {"libllama", "libggml", "llama", "ggml"}
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix in (".so", ".dylib", ".dll")
        and (path.stem in names or path.stem.startswith(("libggml-", "ggml-")))
    )
