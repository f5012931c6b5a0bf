"""Loads engines and computes their fingerprints, without importing llama.cpp where it is known.

What an engine computes depends on the model file, the llama.cpp build, the CPU and the constants
below. The build and the probe of a model are remembered in the cache directory, so a program whose
answers are all cached never imports llama_cpp.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

import attrs

from asteady._base.errors import EngineError, ModelChangedError
from asteady._base.files import recall, remember
from asteady._base.forks import ProcessLock, fork_gate
from asteady._base.requests import Kind
from asteady._base.settings import Settings
from asteady._engine.api import PIECE_TOKENS, Engine
from asteady._engine.build import digest_of, libraries, processor
from asteady._engine.models.hub import resolve_hub
from asteady._engine.models.resolve import ModelFile, resolve_model
from asteady._engine.plan import EngineOptions, ProbeReport, Setup, choose

if TYPE_CHECKING:
    from asteady._engine.llama.engine import LlamaEngine

T = TypeVar("T")

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

# How often a file that changes between being identified and being loaded is identified again.
_ATTEMPTS = 3

_probing = ProcessLock()
_loaded_build: dict[str, str] | None = None


class LlamaSource:
    """The `EngineSource` of real sessions: GGUF models in llama.cpp, as the settings say."""

    def __init__(self, settings: Settings) -> None:
        self._options = EngineOptions.of(settings)
        self._cache_dir = settings.cache_dir

    def fingerprint(self, kind: Kind, reference: str) -> str:
        return self._identified(kind, reference, fingerprint_of)

    def load(self, kind: Kind, reference: str) -> Engine:
        return self._identified(kind, reference, load_engine)

    def dimensions(self, reference: str) -> int:
        def dimensions_of(model: ModelFile, options: EngineOptions, cache_dir: Path) -> int:
            return model.header.dimensions

        return self._identified("embedding", reference, dimensions_of)

    def fetch(self, reference: str, stopped: Callable[[], bool]) -> None:
        if reference.startswith("hf:"):
            resolve_hub(reference, self._cache_dir, stopped=stopped)

    def _identified(
        self, kind: Kind, reference: str, use: Callable[[ModelFile, EngineOptions, Path], T]
    ) -> T:
        def attempt() -> T:
            try:
                file = resolve_model(reference, kind=kind, cache_dir=self._cache_dir)
                return use(file, self._options, self._cache_dir)
            except (ImportError, OSError) as exc:  # of llama.cpp, or for lack of descriptors
                raise EngineError(f"the model {reference} cannot be loaded: {exc}") from exc

        for _ in range(_ATTEMPTS - 1):
            with suppress(ModelChangedError):
                return attempt()
        return attempt()


def load_engine(
    model: ModelFile, options: EngineOptions, cache_dir: Path, setup: Setup | None = None
) -> LlamaEngine:
    """Load the weights, after a probe if this build has not met this model. Blocks for as long as
    reading the file takes. `setup` says how to compute and replaces the probe.

    The engine's fingerprint is that of the bytes that were loaded.

    Raises as `fingerprint_of` does, a ModelChangedError if a file was replaced or written to since
    it was identified, and a ModelCapabilityError for a kind of model that asteady does not serve.
    """
    # Importing llama.cpp takes 0.2 s.
    with fork_gate:
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
        with fork_gate:
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
    libraries' paths and identities, and the CPU's model and features.

    Raises:
        EngineError: llama-cpp-python is not installed, or was replaced after it was loaded.
    """
    global _loaded_build
    found = libraries()
    # Of a process that has loaded llama.cpp, the build is the one that it has loaded.
    package = sys.modules.get("asteady._engine.llama")
    if package is not None and found != package.LIBRARIES:
        if _loaded_build is not None:
            return _loaded_build
        raise EngineError(
            "llama-cpp-python was replaced after this process had loaded it: start it again"
        )
    parts = [f"{library.path} {' '.join(map(str, library.identity))}" for library in found]
    key = hashlib.sha256("\n".join([*parts, processor()]).encode()).hexdigest()
    build = recall(cache_dir / _BUILDS_FILE, key)
    if not isinstance(build, dict) or set(build) != {"libraries", "version", "system"}:
        with fork_gate:
            from asteady._engine.llama.lib import version_and_system

        version, system = version_and_system()
        build = {"libraries": digest_of(found), "version": version, "system": system}
        remember(cache_dir / _BUILDS_FILE, key, build)
    build = {name: str(value) for name, value in build.items()}
    if package is not None:
        _loaded_build = build
    return build
