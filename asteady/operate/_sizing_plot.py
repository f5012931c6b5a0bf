"""The curves of a cache's sizes, drawn into a file and as text."""

from __future__ import annotations

import os
from collections.abc import Iterator

from asteady._base.extras import needs
from asteady._base.settings import MEBIBYTE
from asteady.operate._shards import Curve
from asteady.operate._sizing import CacheOptimizer, SizeRecommendation

_BAR = 40


def text_of(optimizer: CacheOptimizer, found: SizeRecommendation) -> str:
    """A table with bars: the share that is hits and that is saved, by capacity in entries."""
    curve = optimizer.curve()
    marks = {found.current_entries: "<- now"}
    if found.entries:
        best = f"<- {100 * found.target:.0f} % of the best possible"
        marks[found.entries] = " ".join(filter(None, (marks.get(found.entries), best)))
    lines = [f"{'entries':>10} {'hits %':>7} {'saved %':>8}"]
    for capacity in sorted({*_doublings(curve), *marks}):
        hits, saved = 100 * curve.hit_rate(capacity), 100 * curve.saved_rate(capacity)
        bar = "#" * round(_BAR * (saved if found.by == "seconds" else hits) / 100)
        line = f"{capacity:>10,} {hits:>7.1f} {saved:>8.1f}  {bar} {marks.get(capacity, '')}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def plot(
    optimizer: CacheOptimizer, found: SizeRecommendation, path: str | os.PathLike[str]
) -> None:
    """Draw both curves, by entries and by bytes, with today's and the recommended capacity.

    The format follows the name: ``.png``, ``.svg``, ``.pdf``. Blocks.

    Raises:
        SettingsError: matplotlib is not installed (the extra ``plot``).
        OSError: the file cannot be written.
        ValueError: the format is not known.
    """
    # Not pyplot: it has global state, and looks for a screen.
    figure = needs("matplotlib.figure", extra="plot").Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, curve, now, best, unit in (
        (panels[0], optimizer.curve(), found.current_entries, found.entries, 1),
        (
            panels[1],
            optimizer.curve_by_bytes(),
            found.current_size_bytes,
            found.size_bytes,
            MEBIBYTE,
        ),
    ):
        sizes = [capacity / unit for capacity in curve.capacities]
        panel.step(sizes, [100 * rate for rate in curve.hits], where="post", label="hits")
        panel.step(
            sizes, [100 * rate for rate in curve.saved], where="post", label="compute time saved"
        )
        panel.axvline(now / unit, color="gray", linestyle="--", label="capacity now")
        if best:
            label = f"{100 * found.target:.0f} % of the best possible"
            panel.axvline(best / unit, color="green", linestyle=":", label=label)
        panel.set_xscale("log")
        panel.set_xlabel("entries" if unit == 1 else "megabytes")
        panel.set_ylim(0, 100)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("percent")
    panels[0].legend()
    figure.suptitle(f"{optimizer.cache_type} cache, {found.accesses:,} accesses")
    figure.savefig(os.fspath(path))


def _doublings(curve: Curve) -> Iterator[int]:
    largest = curve.capacities[-1] if curve.capacities else 1
    capacity = 1
    while capacity < largest:
        yield capacity
        capacity *= 2
    yield capacity
