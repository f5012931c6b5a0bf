"""How an engine computes: the sequences per step, and the memory layout of the weights.

Several sequences share a batch only if each gets the same bits as alone. That depends on the
model, the build and the CPU, so it is probed once (`asteady._engine.llama.probe`) and remembered.
The setup is chosen from the widths that gave equal bits and a fixed table, never by measured time:
the layout changes the bits of an answer, so machines of one kind must choose alike.
"""

from __future__ import annotations

import attrs

from asteady._base.settings import MEBIBYTE, Settings

# The memory that the contexts of one worker may take for keys and values. It bounds the width of
# large models: 8 sequences of 4096 positions of a 1B model (32 kB each) take 1 GiB.
_KV_BYTES_PER_WORKER = 2**30

# Throughput of a worker by width, plain and repacked, relative to plain alone: tokens/s of a
# 413 MB Q4_0 model (docs/performance.md says how it was measured); 7 lies between its neighbours.
_SPEED = {
    False: (1.0, 2.4, 3.2, 3.4, 3.2, 3.5, 3.9, 4.4),
    True: (1.8, 2.3, 2.9, 5.3, 4.7, 4.8, 5.1, 5.5),
}


@attrs.frozen(kw_only=True)
class EngineOptions:
    """How an engine is to be loaded and run.

    `context_tokens` bounds the positions of one request, prompt and answer together: 4096 holds a
    long conversation, and costs 128 MB per sequence of a 1B model. A model that was trained on
    fewer has fewer. It can change an answer (where it ends), so it is in the fingerprint.
    `threads` (per worker) cannot, while flash attention is off. `batch_width` is the most sequences
    that a worker may compute per step; as many of them are used as change no answer.
    ``probe=False`` means 1, and no repacking. `prefix_max_bytes` bounds the cached states of
    declared prefixes.
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

    def context_for(self, trained_tokens: int) -> int:
        """The positions of a request to a model that was trained on `trained_tokens`."""
        # Some files do not give that number; it is 0 then.
        return min(trained_tokens or 512, self.context_tokens)

    def width_limit(self, kv_bytes_per_token: int, trained_tokens: int) -> int:
        """The most sequences per worker, at most `batch_width`, that memory has room for."""
        sequence_bytes = kv_bytes_per_token * self.context_for(trained_tokens)
        if not sequence_bytes:
            return self.batch_width
        return max(1, min(self.batch_width, _KV_BYTES_PER_WORKER // sequence_bytes))


@attrs.frozen(kw_only=True)
class Setup:
    """`width` sequences per step and worker; with the weights repacked for this CPU or not.

    `step_s` holds the seconds that a step of 1, 2, ... sequences took in the probe. It decides how
    a step is divided into calls, which changes no bit of any answer, so setups that differ only in
    it are equal.
    """

    width: int = 1
    repack: bool = False
    step_s: tuple[float, ...] = attrs.field(default=(), eq=False)


@attrs.frozen(kw_only=True)
class WidthResult:
    """Whether `width` sequences in a batch got bits `equal` to those alone, and the seconds of CPU
    time of a step."""

    width: int
    equal: bool
    step_s: float


@attrs.frozen(kw_only=True)
class LayoutResult:
    """The widths that were probed with the weights repacked or not: 1, 2, ... to the first whose
    bits differed."""

    repack: bool
    widths: tuple[WidthResult, ...]

    @property
    def width(self) -> int:
        """The largest width up to which all were equal."""
        return max((result.width for result in self.widths if result.equal), default=1)


@attrs.frozen(kw_only=True)
class ProbeReport:
    """The result of a probe; without layouts if `reason` says why none was needed."""

    setup: Setup
    layouts: tuple[LayoutResult, ...] = ()
    reason: str = ""
    took_s: float = 0.0

    @classmethod
    def restore(cls, stored: object) -> ProbeReport | None:
        """The report that `attrs.asdict` made `stored` of; None if it is anything else."""
        try:
            fields: dict[str, object] = dict(stored)  # type: ignore[call-overload]  # in `try`
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
            return cls(setup=setup, layouts=layouts, **fields)  # type: ignore[arg-type]
        except (TypeError, ValueError, KeyError):
            return None


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
    """The sizes of the calls into which a step of `count` sequences is divided, largest first.

    Not every CPU computes two columns faster than one twice: llama.cpp multiplies a single column
    by other code. A step is one call unless dividing it saved a quarter of the time in the probe:
    the probe had the memory bandwidth to itself, which several workers, each reading all weights
    more often, do not have.
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
