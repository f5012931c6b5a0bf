"""How an engine computes: how many sequences per step, and in which layout the weights lie.

Several sequences in one batch may only be computed where each gets the same bits as alone. That
depends on the model, the build and the CPU, so it is probed (`asteady._engine.llama.probe`), once,
and remembered. The choice follows from what held and from a fixed table, never from a clock: two
machines of one kind must choose alike, as the layout changes the bits of an answer.
"""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

import attrs

from asteady._base.files import recall, remember
from asteady._base.settings import MEBIBYTE, Settings
from asteady._engine.build import build_of
from asteady._engine.models.resolve import ModelFile

PIECE_TOKENS = 512
"""A prompt is computed in pieces of this many tokens: how it is cut changes the result. 512 is
llama.cpp's own default for a physical batch."""

# The memory that the contexts of one worker may take for keys and values. It bounds the width of
# large models: 8 sequences of 4096 positions of a 1B model (32 kB each) take 1 GiB.
_KV_BYTES_PER_WORKER = 2**30

# Throughput of a worker by width, plain and repacked, relative to plain alone: tokens/s of a
# 413 MB Q4_0 model (docs/performance.md says how it was measured); 7 lies between its neighbours.
_SPEED = {
    False: (1.0, 2.4, 3.2, 3.4, 3.2, 3.5, 3.9, 4.4),
    True: (1.8, 2.3, 2.9, 5.3, 4.7, 4.8, 5.1, 5.5),
}

# Weights of these types are multiplied by other code for one column than for several; they never
# held at any width.
_NEVER_HELD = frozenset({"F32", "F16", "BF16"})

_PROBES_FILE = "probes.json"
# Raise it when the probe or the choice changes.
_PROBE_VERSION = 2

_probing = threading.Lock()


@attrs.frozen(kw_only=True)
class EngineOptions:
    """What is asked of an engine.

    `context_tokens` bounds the positions of one request, prompt and answer together: 4096 holds a
    long conversation, and costs 128 MB per sequence of a 1B model. A model that was trained on
    fewer has fewer. It can change an answer (where it ends), so it is in the fingerprint.
    `threads` per worker cannot, while flash attention is off. `batch_width` is the most sequences
    that a worker may compute per step, of which as many are used as change no answer;
    ``probe=False`` uses 1, and the weights as they lie in the file. `prefix_max_bytes` bounds what
    is kept of declared prefixes.
    """

    context_tokens: int = 4096
    threads: int = 1
    gpu_layers: int = 0
    batch_width: int = 8
    probe: bool = True
    prefix_max_bytes: int = 512 * 2**20

    @classmethod
    def of(cls, settings: Settings) -> EngineOptions:
        return cls(
            threads=settings.threads,
            gpu_layers=settings.gpu_layers,
            batch_width=settings.batch_width,
            probe=settings.probe,
            prefix_max_bytes=int(settings.prefix_max_size_mb * MEBIBYTE),
        )

    def context_for(self, model: ModelFile) -> int:
        """How many positions a request to this model has."""
        # Some files do not say what the model was trained on.
        return min(model.header.context_length or 512, self.context_tokens)


@attrs.frozen(kw_only=True)
class Setup:
    """`width` sequences per step and worker; `repack` the weights for this CPU or leave them.

    `step_s` holds what a step of 1, 2, ... sequences took in the probe. It decides how a step is
    divided into calls, which changes no bit of any answer, so it is no part of what a setup is.
    """

    width: int = 1
    repack: bool = False
    step_s: tuple[float, ...] = attrs.field(default=(), eq=False)


@attrs.frozen(kw_only=True)
class WidthResult:
    """Whether `width` sequences together got the same bits as alone, and what a step took, in
    seconds of a core."""

    width: int
    held: bool
    step_s: float


@attrs.frozen(kw_only=True)
class LayoutResult:
    """What held with the weights repacked or not; widths from 1 to the first that did not hold."""

    repack: bool
    widths: tuple[WidthResult, ...]

    @property
    def width(self) -> int:
        """The largest width at which this one and every smaller one held."""
        return max((result.width for result in self.widths if result.held), default=1)


@attrs.frozen(kw_only=True)
class ProbeReport:
    """What a probe found; no layouts where none was needed, for the `reason` given."""

    setup: Setup
    layouts: tuple[LayoutResult, ...] = ()
    reason: str = ""
    took_s: float = 0.0


def setup_of(model: ModelFile, options: EngineOptions, cache_dir: Path) -> Setup:
    """How an engine for this model is set up here; probes it if that is not known yet. Blocks."""
    return probe_report(model, options, cache_dir).setup


def probe_report(model: ModelFile, options: EngineOptions, cache_dir: Path) -> ProbeReport:
    """The probe of this model on this machine: the remembered one, or a new one.

    Raises:
        EngineError: llama-cpp-python is not installed, or failed in the probe.
        ModelFormatError: llama.cpp cannot load the file.
    """
    if model.header.kind == "embedding":
        return ProbeReport(setup=Setup(), reason="texts are embedded one at a time")
    if not options.probe:
        return ProbeReport(setup=Setup(), reason="the probe is switched off (ASTEADY_PROBE)")
    if _NEVER_HELD.issuperset(model.header.matrix_types):
        return ProbeReport(
            setup=Setup(), reason=f"{'/'.join(model.header.matrix_types)} never holds"
        )
    limit = width_limit(model, options)
    build = build_of(cache_dir)
    parts: list[object] = [_PROBE_VERSION, model.sha256, limit, build]
    if options.gpu_layers:
        parts.append(options.gpu_layers)
    described = json.dumps(parts, sort_keys=True)
    key = hashlib.sha256(described.encode()).hexdigest()
    file = cache_dir / _PROBES_FILE
    # One probe at a time in a process: a second caller for the same model finds it remembered.
    with _probing:
        known = _report(recall(file, key))
        if known is not None:
            return known
        from asteady._engine.llama.probe import probe

        # A build that announces AMX crashes with repacked weights.
        # Repacking is for the CPU.
        repackable = "AMX_INT8 = 1" not in build["system"] and not options.gpu_layers
        layouts, took_s = probe(
            model, limit, options.threads, repackable=repackable, gpu_layers=options.gpu_layers
        )
        report = ProbeReport(setup=choose(layouts), layouts=layouts, took_s=took_s)
        remember(file, key, attrs.asdict(report))
        return report


def width_limit(model: ModelFile, options: EngineOptions) -> int:
    """The most sequences per worker that memory allows and `batch_width` asks for."""
    per_sequence = model.header.kv_bytes_per_token * options.context_for(model)
    if not per_sequence:
        return options.batch_width
    return max(1, min(options.batch_width, _KV_BYTES_PER_WORKER // per_sequence))


def choose(layouts: tuple[LayoutResult, ...]) -> Setup:
    """The layout that is fastest at its width, by the table; plain weights where they are equal."""
    setups = [
        Setup(
            width=layout.width,
            repack=layout.repack,
            step_s=tuple(result.step_s for result in layout.widths[: layout.width]),
        )
        for layout in layouts
    ]

    def speed(setup: Setup) -> float:
        known = _SPEED[setup.repack]
        return known[min(setup.width, len(known)) - 1]

    return max(setups, key=lambda setup: (speed(setup), not setup.repack))


def divide(count: int, step_s: tuple[float, ...]) -> tuple[int, ...]:
    """How many sequences to put into each call of a step of `count`, the largest call first.

    Not every CPU computes two columns faster than one twice: llama.cpp multiplies a single column
    by other code. All together, unless dividing saves a quarter of the time in the probe: that had
    the memory's bandwidth to itself, and several workers that each read all weights more often do
    not.
    """
    if count == 0:
        return ()
    if count > len(step_s):
        return (count,)
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for size in range(1, count + 1):
        best.append(
            min(
                (step_s[part - 1] + best[size - part][0], (part, *best[size - part][1]))
                for part in range(1, size + 1)
            )
        )
    least_s, parts = best[count]
    if least_s > 0.75 * step_s[count - 1]:
        return (count,)
    return tuple(sorted(parts, reverse=True))


def _report(known: object) -> ProbeReport | None:
    """A remembered report, unless something else than that was remembered."""
    try:
        fields: dict[str, object] = dict(known)  # type: ignore[call-overload]  # checked by trying
        layouts = tuple(
            LayoutResult(
                repack=layout["repack"],
                widths=tuple(WidthResult(**width) for width in layout["widths"]),
            )
            for layout in fields.pop("layouts")  # type: ignore[attr-defined]
        )
        setup = choose(layouts)
        if Setup(**fields.pop("setup")) != setup:  # type: ignore[arg-type]
            return None
        return ProbeReport(setup=setup, layouts=layouts, **fields)  # type: ignore[arg-type]
    except (TypeError, ValueError, KeyError):
        return None
