"""Loads engines and computes their fingerprints, without importing llama.cpp where it is known.

What an engine computes depends on the model file, the llama.cpp build, the CPU and the constants
below. The build and the probe of a model are remembered in the cache directory, so a program whose
answers are all cached never imports llama_cpp.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from asteady._base.activity import Activities
from asteady._base.errors import EngineError, ModelChangedError
from asteady._base.files import recall, remember
from asteady._base.forks import fork_gate
from asteady._base.requests import Kind
from asteady._base.settings import Settings
from asteady._base.threads import start_daemon
from asteady._engine.api import Engine, MachineStatistics
from asteady._engine.build import REPLACED, digest_of, libraries, processor
from asteady._engine.cores import Cores
from asteady._engine.fingerprint import FingerprintParts
from asteady._engine.memory import ContextMemory
from asteady._engine.models.hub import resolve_hub
from asteady._engine.models.resolve import (
    FoundModel,
    ModelFile,
    check_reference,
    find_model,
    resolve_model,
)
from asteady._engine.plan import NEVER_EQUAL, EngineOptions, Setup, WidthReport, repacks

if TYPE_CHECKING:
    from asteady._engine.llama.engine import LlamaEngine
    from asteady._engine.llama.tokenizer import LlamaTokenizer
    from asteady._engine.llama.weights import Weights

T = TypeVar("T")

_log = logging.getLogger("asteady")

# Raise it when the probe or the choice of the setup changes.
_PROBE_VERSION = 3

_PROBES_FILE = "probes.json"
_BUILDS_FILE = "builds.json"

# How often a file that changes between being identified and being loaded is identified again.
_ATTEMPTS = 3

_loaded_build: dict[str, str] | None = None
# Portable fingerprints by the fingerprints that were computed; both depend on the parts alone.
_portable: dict[str, str] = {}


class LlamaSource:
    """The `EngineSource` of real sessions: GGUF models in llama.cpp, as the settings say.

    Its engines share one budget of cores and one of memory for keys and values.
    """

    def __init__(self, settings: Settings) -> None:
        self._options = EngineOptions.of(settings)
        self._cache_dir = settings.cache_dir
        self.activities = Activities()
        self._resolving: dict[tuple[Kind, str], Future[ModelFile]] = {}
        self._lock = threading.Lock()

    # What the machine has is read from files, so not on the event loop, where sessions are made.
    # Under the lock, as two models may be loaded at once: from Python 3.12 on each load would make
    # budgets of its own.

    @functools.cached_property
    def _cores(self) -> Cores:
        return Cores(self._options.cores, self._options.threads)

    @functools.cached_property
    def _memory(self) -> ContextMemory:
        return ContextMemory(self._options.context_bytes)

    def machine(self) -> MachineStatistics | None:
        # Not made here: that reads files, and this is called on the event loop.
        made = vars(self)
        cores: Cores | None = made.get("_cores")
        memory: ContextMemory | None = made.get("_memory")
        if cores is None or memory is None:
            return None
        return MachineStatistics(
            cores=cores.budget,
            threads=cores.share(),
            busy_workers=cores.busy_workers,
            context_bytes=memory.used_bytes,
            max_context_bytes=memory.max_bytes,
        )

    def fingerprint(self, kind: Kind, reference: str) -> str:
        return self._identified(kind, reference, fingerprint_of)

    def identify(self, kind: Kind, reference: str, reading: Callable[[], None]) -> str:
        return self._identified(kind, reference, fingerprint_of, reading)

    def fingerprint_parts(self, kind: Kind, reference: str) -> dict[str, Any]:
        parts = self._identified(kind, reference, fingerprint_parts)
        return {**attrs.asdict(parts), "files": list(parts.files)}

    def portable_fingerprint(self, fingerprint: str) -> str:
        return _portable[fingerprint]

    def load(self, kind: Kind, reference: str) -> Engine:
        def attempt() -> Engine:
            resolved = self._resolve(kind, reference)
            found = find_model(reference, kind=kind, cache_dir=self._cache_dir)
            with self._lock:
                cores, memory = self._cores, self._memory
            try:
                return load_engine(
                    found or resolved.result(),
                    self._options,
                    self._cache_dir,
                    resolved=resolved.result,
                    cores=cores,
                    memory=memory,
                    activities=self.activities,
                )
            except ModelChangedError:
                # What began to be read before the change must not be what the next attempt gets.
                wait([resolved])
                raise

        return self._attempts(reference, attempt)

    def tokenizer(self, kind: Kind, reference: str) -> LlamaTokenizer:
        def attempt() -> LlamaTokenizer:
            # Reading all of a large file for its digest takes longer than its vocabulary.
            found = find_model(reference, kind=kind, cache_dir=self._cache_dir)
            model = found or self._resolve(kind, reference).result()
            with fork_gate:
                from asteady._engine.llama.tokenizer import LlamaTokenizer

            return LlamaTokenizer(model)

        return self._attempts(reference, attempt)

    def dimensions(self, reference: str) -> int:
        def dimensions_of(model: ModelFile, options: EngineOptions, cache_dir: Path) -> int:
            return model.header.dimensions

        return self._identified("embedding", reference, dimensions_of)

    def check_reference(self, reference: str) -> None:
        check_reference(reference)

    def fetch(self, reference: str, stopped: Callable[[], bool]) -> None:
        if reference.startswith("hf:"):
            with self.activities.during("downloading", reference) as running:
                resolve_hub(reference, self._cache_dir, running=running, stopped=stopped)

    def _identified(
        self,
        kind: Kind,
        reference: str,
        use: Callable[[ModelFile, EngineOptions, Path], T],
        reading: Callable[[], None] | None = None,
    ) -> T:
        def attempt() -> T:
            file = self._resolve(kind, reference, reading).result()
            return use(file, self._options, self._cache_dir)

        return self._attempts(reference, attempt)

    def _attempts(self, reference: str, attempt: Callable[[], T]) -> T:
        try:
            for _ in range(_ATTEMPTS - 1):
                with suppress(ModelChangedError):
                    return attempt()
            return attempt()
        except (ImportError, OSError) as exc:  # of llama.cpp, or for lack of descriptors
            raise EngineError(f"the model {reference} cannot be loaded: {exc}") from exc

    def _resolve(
        self, kind: Kind, reference: str, reading: Callable[[], None] | None = None
    ) -> Future[ModelFile]:
        """`resolve_model` in a thread; one at a time for a reference, so it is read only once."""
        key = (kind, reference)
        with self._lock:
            future = self._resolving.get(key)
            if future is None:
                future = Future()
                start_daemon("asteady-read", self._read, kind, reference, reading, future)
                self._resolving[key] = future
            return future

    def _read(
        self,
        kind: Kind,
        reference: str,
        reading: Callable[[], None] | None,
        future: Future[ModelFile],
    ) -> None:
        file, error = None, None
        try:
            file = resolve_model(
                reference,
                kind=kind,
                cache_dir=self._cache_dir,
                activities=self.activities,
                reading=reading,
            )
        except BaseException as exc:
            error = exc
        with self._lock:
            # First, as who has the result may ask again.
            del self._resolving[kind, reference]
        if file is not None:
            future.set_result(file)
        else:
            future.set_exception(error)


def load_engine(
    model: FoundModel,
    options: EngineOptions,
    cache_dir: Path,
    setup: Setup | None = None,
    *,
    resolved: Callable[[], ModelFile] | None = None,
    cores: Cores | None = None,
    memory: ContextMemory | None = None,
    activities: Activities | None = None,
) -> LlamaEngine:
    """Load the weights. Blocks for as long as reading the file takes.

    If the digest of `model` is not known, `resolved` waits for it when the weights are loaded.

    The engine computes one sequence per step until a probe has found how many more change no bit;
    `setup` says how it computes instead, and then there is no probe. Without `cores` and `memory`
    it has budgets of its own.

    The engine's fingerprint is that of the bytes that were loaded.

    Raises as `fingerprint_of` does, a ModelChangedError if a file was replaced or written to since
    it was found, and a ModelCapabilityError for a kind of model that asteady does not serve.
    """
    activities = activities or Activities()
    with activities.during("loading", str(model.path), model.size_bytes) as loading:
        # Importing llama.cpp takes 0.2 s.
        with fork_gate:
            from asteady._engine.llama.weights import Weights

        if setup is None:
            system = build_of(cache_dir)["system"]
            repack = repacks(model.header.matrix_types, system, options)
        else:
            repack = setup.repack
        weights = Weights(model, repack=repack, gpu_layers=options.gpu_layers, running=loading)
        try:
            if not isinstance(model, ModelFile):
                assert resolved is not None
                model = resolved()
                weights.files.check_identified(model)
            engine = _engine(model, weights, options, cache_dir, setup, cores, memory, activities)
        except BaseException:
            weights.close()
            raise
        megabytes, took_s = model.size_bytes / 1e6, perf_counter() - loading.began
        message = "loaded %s (%.1f MB) in %.2f s (%s)"
        _log.info(message, model.path, megabytes, took_s, engine.setup)
        return engine


def _engine(
    model: ModelFile,
    weights: Weights,
    options: EngineOptions,
    cache_dir: Path,
    setup: Setup | None,
    cores: Cores | None,
    memory: ContextMemory | None,
    activities: Activities,
) -> LlamaEngine:
    """The engine of a model that is loaded."""
    with fork_gate:
        from asteady._engine.llama.engine import LlamaEngine

    store = None
    if setup is None:
        report = width_report(model, options, cache_dir)
        setup = Setup(
            width=1 if report is None else report.width,
            repack=repacks(model.header.matrix_types, build_of(cache_dir)["system"], options),
        )
        if report is None:
            key = _probe_key(model, options, cache_dir)

            def store(found: WidthReport) -> None:
                remember(cache_dir / _PROBES_FILE, key, attrs.asdict(found))

    return LlamaEngine(
        model,
        weights,
        options,
        setup,
        fingerprint_of(model, options, cache_dir, setup),
        cores=cores or Cores(options.cores, options.threads),
        memory=memory or ContextMemory(options.context_bytes),
        remember_widths=store,
        activities=activities,
    )


def fingerprint_of(
    model: ModelFile, options: EngineOptions, cache_dir: Path, setup: Setup | None = None
) -> str:
    """The fingerprint of an engine, 64 hexadecimal digits: of the model's file, the build, the CPU
    and the settings that can change an answer. Loads no weights, measures nothing.

    Blocks: reads small files.

    Raises:
        EngineError: llama-cpp-python is not installed.
    """
    parts = fingerprint_parts(model, options, cache_dir, setup)
    digest = parts.digest
    _portable[digest] = parts.portable_digest
    return digest


def fingerprint_parts(
    model: ModelFile, options: EngineOptions, cache_dir: Path, setup: Setup | None = None
) -> FingerprintParts:
    """What the fingerprint is the digest of; blocks and raises as `fingerprint_of` does."""
    build = build_of(cache_dir)
    repack = repacks(model.header.matrix_types, build["system"], options)
    return FingerprintParts(
        model=model.sha256,
        libraries=build["libraries"],
        version=build["version"],
        system=build["system"],
        context_tokens=options.context_for(model.header.kind, model.header.context_length),
        repack=repack if setup is None else setup.repack,
        piece_tokens=options.piece_tokens,
        gpu_layers=options.gpu_layers,
        # Earlier versions left the reasoning in the text.
        thinking=model.header.thinks,
        files=tuple(part.sha256 for part in model.parts) if len(model.parts) > 1 else (),
    )


def width_report(model: ModelFile, options: EngineOptions, cache_dir: Path) -> WidthReport | None:
    """How many sequences of this model may share a batch on this machine, by an earlier probe or
    because there is nothing to probe; None if that is not known yet."""
    header = model.header
    if header.kind == "embedding":
        return WidthReport(reason="texts are embedded one at a time")
    if not options.probe or options.batch_width == 1:
        return WidthReport(reason="the probe is switched off (ASTEADY_PROBE, ASTEADY_BATCH_WIDTH)")
    if NEVER_EQUAL.issuperset(header.matrix_types):
        types = "/".join(header.matrix_types)
        return WidthReport(reason=f"{types} weights differ in any batch")
    return WidthReport.restore(
        recall(cache_dir / _PROBES_FILE, _probe_key(model, options, cache_dir))
    )


def probe_report(
    model: ModelFile,
    options: EngineOptions,
    cache_dir: Path,
    activities: Activities | None = None,
) -> WidthReport:
    """As `width_report`, but probed now if need be: loads the model and blocks, for seconds.

    Raises as `load_engine` does.
    """
    known = width_report(model, options, cache_dir)
    if known is not None:
        return known
    engine = load_engine(model, options, cache_dir, activities=activities)
    try:
        return engine.probe()
    finally:
        engine.close()


def _probe_key(model: ModelFile, options: EngineOptions, cache_dir: Path) -> str:
    parts = [_PROBE_VERSION, model.sha256, options.batch_width, build_of(cache_dir)]
    if options.gpu_layers:
        parts.append(options.gpu_layers)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


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
    # While another thread imports it, its module is there and has no attributes yet.
    loaded = getattr(sys.modules.get("asteady._engine.llama"), "LIBRARIES", None)
    if loaded is not None and found != loaded:
        if _loaded_build is not None:
            return _loaded_build
        raise EngineError(REPLACED)
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
    if loaded is not None:
        _loaded_build = build
    return build
