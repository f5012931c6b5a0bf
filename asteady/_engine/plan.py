"""How an engine computes: plain functions of the model, the build, the settings and what was
measured.

What decides the bits of an answer (the layout of the weights, the size of the pieces of a prompt)
follows from the model's header, the build and the CPU. What does not (how many sequences share a
batch, the shape of contexts, the number of threads) may change while requests run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import attrs

from asteady._base.requests import Kind
from asteady._base.settings import FORM_MAX_STATES, MEBIBYTE, Settings

# A prompt is computed in pieces of this many tokens, as how it is cut changes the bits. Smaller
# pieces let a prompt share more with the ones before it, and cost nothing on a CPU
# (docs/performance.md); a GPU needs large ones.
CPU_PIECE_TOKENS = 64
GPU_PIECE_TOKENS = 512

# Weights of these types are multiplied by other code for one column than for several, so a batch
# never gave the bits that its sequences get alone.
NEVER_EQUAL = frozenset({"F32", "F16", "BF16"})

# Types whose repacked weights are faster alone and gave equal bits in a batch. The others were
# slower, or gave other bits in a batch.
_REPACKED = frozenset({"Q4_0", "Q8_0"})

# A context keeps prompts for later ones, as long as it takes no more memory than this, or than half
# of the weights, and holds at most so many.
_ROOM_BYTES = 128 * MEBIBYTE
_MOST_SEQUENCES = 8
# A text is embedded in one call, whose memory grows with the square of its length: at so many
# tokens it takes about a gigabyte. Longer ones only if the settings say so.
_MOST_TEXT_TOKENS = 4096
# Contexts have so many positions for each sequence at first, and then twice as many, and so on.
_FIRST_TOKENS = 1024


@attrs.frozen(kw_only=True)
class EngineOptions:
    """How an engine is to be loaded and run.

    `context_tokens` bounds the positions of one request, prompt and answer together; None means
    what the model was trained on, which is also the most, or 4,096 for texts that are embedded. It
    can change an answer (where it ends), so it is in the fingerprint. `cores`, `threads`,
    `batch_width` and `context_bytes` cannot: they are the budget of cores, the threads of a call,
    the most sequences per step of a worker, and the memory for keys and values; None is the default
    of each. ``probe=False`` means one sequence per step. `prefix_max_bytes` bounds the cached
    states of declared prefixes, `form_max_states` the automaton of an answer's form.
    """

    context_tokens: int | None = None
    context_bytes: int | None = None
    cores: int | None = None
    threads: int | None = None
    gpu_layers: int = 0
    batch_width: int = 8
    probe: bool = True
    prefix_max_bytes: int = 512 * 2**20
    form_max_states: int = FORM_MAX_STATES

    @classmethod
    def of(cls, settings: Settings) -> EngineOptions:
        memory_mb = settings.context_memory_mb
        return cls(
            context_tokens=settings.context_tokens,
            context_bytes=None if memory_mb is None else int(memory_mb * MEBIBYTE),
            cores=settings.cores,
            threads=settings.threads,
            gpu_layers=settings.gpu_layers,
            batch_width=settings.batch_width,
            probe=settings.probe,
            prefix_max_bytes=int(settings.prefix_max_size_mb * MEBIBYTE),
            form_max_states=settings.form_max_states,
        )

    @property
    def piece_tokens(self) -> int:
        return GPU_PIECE_TOKENS if self.gpu_layers else CPU_PIECE_TOKENS

    def context_for(self, kind: Kind, trained_tokens: int) -> int:
        """The positions of a request to a model that was trained on `trained_tokens`."""
        most = _MOST_TEXT_TOKENS if kind == "embedding" else 2**31 - 1
        # Some files do not give that number; it is 0 then.
        return min(trained_tokens or 512, self.context_tokens or most)


@attrs.frozen(kw_only=True)
class Setup:
    """How a loaded model computes: with the weights repacked for this CPU or not, and with up to
    `width` sequences in a batch. The width changes no bit."""

    width: int = 1
    repack: bool = False

    def __str__(self) -> str:
        weights = "repacked" if self.repack else "plain"
        return f"batch width {self.width}, {weights} weights"


def repacks(matrix_types: Sequence[str], system: str, options: EngineOptions) -> bool:
    """Whether weights of these types are repacked: it changes the order of sums, and so the bits.

    `system` is llama.cpp's description of the build and the CPU. A build that reports AMX crashes
    with repacked weights.
    """
    return (
        not options.gpu_layers
        and "AMX_INT8 = 1" not in system
        and bool(matrix_types)
        and _REPACKED.issuperset(matrix_types)
    )


@attrs.frozen(kw_only=True)
class WidthResult:
    """Whether `width` sequences in a batch got bits `equal` to those alone, and the seconds of CPU
    time of a step."""

    width: int
    equal: bool
    step_s: float


@attrs.frozen(kw_only=True)
class WidthReport:
    """Which widths were tried: 1, 2, ... to the first whose bits differed, or to the most wanted;
    none if `reason` says why."""

    widths: tuple[WidthResult, ...] = ()
    reason: str = ""
    took_s: float = 0.0

    @property
    def width(self) -> int:
        """The largest width up to which all were equal."""
        return max((result.width for result in self.widths if result.equal), default=1)

    @classmethod
    def restore(cls, stored: object) -> WidthReport | None:
        """The report that `attrs.asdict` made `stored` of; None if it is anything else."""
        try:
            fields: dict[str, object] = dict(stored)  # type: ignore[call-overload]  # in `try`
            widths = tuple(
                WidthResult(**width)
                for width in fields.pop("widths")  # type: ignore[attr-defined]
            )
            return cls(widths=widths, **fields)  # type: ignore[arg-type]
        except (TypeError, ValueError, KeyError):
            return None


@attrs.frozen(kw_only=True)
class RoomShape:
    """A context for so many sequences of so many positions each."""

    sequences: int
    tokens: int


def room_shape(
    last: RoomShape | None,
    *,
    needed_tokens: int,
    busy: int,
    context_tokens: int,
    kv_bytes: int,
    weights_bytes: int,
) -> RoomShape:
    """The shape of the next context of a worker: for a request with so many positions beside `busy`
    others, with what is left of its memory used to keep prompts."""
    tokens = max(_FIRST_TOKENS, 0 if last is None else last.tokens)
    while tokens < needed_tokens:
        tokens *= 2
    # In units of llama.cpp's, as the number of positions that a step looks at is in these too.
    tokens = min(tokens, math.ceil(context_tokens / 256) * 256)
    roomy = max(_ROOM_BYTES, weights_bytes // 2) // max(1, kv_bytes * tokens)
    wanted = 2 ** math.ceil(math.log2(busy + 1))
    sequences = max(wanted, min(roomy, _MOST_SEQUENCES))
    if last is not None and last.tokens == tokens:
        sequences = max(sequences, last.sequences)
    return RoomShape(sequences=sequences, tokens=tokens)


def divide(count: int, step_s: Callable[[int], float | None]) -> tuple[int, ...]:
    """The sizes of the calls into which a step of `count` sequences is divided, largest first.

    Not every CPU computes two columns faster than one twice: llama.cpp multiplies a single column
    by other code. `step_s` tells how long a call of a size takes, if that was measured. A step is
    one call unless dividing it saves a quarter of the time.
    """
    if count == 0:
        return ()
    times = [step_s(size) for size in range(1, count + 1)]
    whole_s = times[-1]
    if whole_s is None:
        return (count,)
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for size in range(1, count + 1):
        ways = [
            (took_s + best[size - part][0], (part, *best[size - part][1]))
            for part in range(1, size + 1)
            if (took_s := times[part - 1]) is not None
        ]
        best.append(min(ways, default=(math.inf, ())))
    least_s, parts = best[count]
    if least_s > 0.75 * whole_s:
        return (count,)
    return tuple(sorted(parts, reverse=True))
