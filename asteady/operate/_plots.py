"""Plots of cache sizes and of the caches' history: text tables, and files by matplotlib."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from asteady._base.errors import InvalidRequestError
from asteady._base.files import AnyPath
from asteady._base.settings import MEBIBYTE
from asteady._base.validation import needs
from asteady.operate._sizing import CacheOptimizer, Curve, SizeRecommendation

_BAR = 40


def sizing_table(optimizer: CacheOptimizer, found: SizeRecommendation) -> str:
    """A table with bars: hits and compute time saved, by capacity in entries."""
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


def plot_sizing(optimizer: CacheOptimizer, found: SizeRecommendation, path: AnyPath) -> None:
    """Draw the curves by entries and by bytes, with the current and the recommended capacity.

    The format follows the name: ``.png``, ``.svg``, ``.pdf``. Blocks.

    Raises:
        SettingsError: matplotlib is not installed (the extra ``plot``).
        OSError: the file cannot be written.
        InvalidRequestError: the format is not known.
    """
    figure = _figure(height=4)
    panels = figure.subplots(1, 2, sharey=True)
    capacities = (
        (found.current_entries, found.entries),
        (
            found.current_size_bytes / MEBIBYTE,
            found.size_bytes / MEBIBYTE,
        ),
    )
    curves = (optimizer.curve(), 1, "entries"), (optimizer.curve_by_bytes(), MEBIBYTE, "megabytes")
    for panel, (curve, unit, label), (current, recommended) in zip(
        panels, curves, capacities, strict=True
    ):
        sizes = [capacity / unit for capacity in curve.capacities]
        for rates, name in ((curve.hits, "hits"), (curve.saved, "compute time saved")):
            panel.step(sizes, [100 * rate for rate in rates], where="post", label=name)
        panel.axvline(current, color="gray", linestyle="--", label="capacity now")
        if recommended:
            best = f"{100 * found.target:.0f} % of the best possible"
            panel.axvline(recommended, color="green", linestyle=":", label=best)
        panel.set_xscale("log")
        panel.set_xlabel(label)
        panel.set_ylim(0, 100)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("percent")
    panels[0].legend()
    figure.suptitle(f"{optimizer.cache_type} cache, {found.accesses:,} accesses")
    _save(figure, path)


def plot_history(
    times: Sequence[datetime],
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
    path: AnyPath,
) -> None:
    """Draw entries and hit rates over time, of each cache what its snapshots say of it.

    Blocks; raises as `plot_sizing`.
    """
    figure = _figure(height=6)
    entries, rates = figure.subplots(2, 1, sharex=True)
    for kind, snapshots in histories.items():
        (line,) = entries.plot(times, [one["size"] for one in snapshots], "o-", label=kind)
        capacities = [one["capacity"] for one in snapshots]
        entries.plot(times, capacities, ":", color=line.get_color(), label=f"{kind}, capacity")
        rates.plot(times, [one["hit_rate"] for one in snapshots], "o-", label=kind)
    entries.set_ylabel("entries")
    entries.set_ylim(bottom=0)
    rates.set_ylabel("hit rate, percent")
    rates.set_ylim(0, 100)
    for panel in (entries, rates):
        panel.grid(alpha=0.3)
        panel.legend()
    figure.autofmt_xdate()
    _save(figure, path)


def _figure(height: float) -> Any:
    # Not pyplot, which has global state and looks for a screen.
    make = needs("matplotlib.figure", extra="plot").Figure
    return make(figsize=(10, height), layout="constrained")


def _save(figure: Any, path: AnyPath) -> None:
    try:
        figure.savefig(os.fspath(path))
    except ValueError as exc:
        raise InvalidRequestError(f"{os.fspath(path)}: {exc}") from None


def _doublings(curve: Curve) -> Iterator[int]:
    largest = curve.capacities[-1] if curve.capacities else 1
    capacity = 1
    while capacity < largest:
        yield capacity
        capacity *= 2
    yield capacity
