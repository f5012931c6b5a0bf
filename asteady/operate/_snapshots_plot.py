"""The history of the caches, drawn into a file."""

from __future__ import annotations

import os
from typing import Any

from asteady._base.extras import needs
from asteady.operate._snapshots import KINDS, when


def plot(history: list[dict[str, Any]], path: str | os.PathLike[str]) -> None:
    """Draw entries and hit rates of both caches over time. Blocks.

    Raises:
        SettingsError: matplotlib is not installed (the extra ``plot``).
        OSError: the file cannot be written.
        ValueError: the format is not known.
    """
    # Not pyplot: it has global state, and looks for a screen.
    figure = needs("matplotlib.figure", extra="plot").Figure(figsize=(10, 6), layout="constrained")
    entries, rates = figure.subplots(2, 1, sharex=True)
    times = [when(snapshot) for snapshot in history]
    for kind in KINDS:
        caches = [snapshot[f"{kind}_cache"] for snapshot in history]
        (line,) = entries.plot(times, [cache["size"] for cache in caches], "o-", label=kind)
        capacities = [cache["capacity"] for cache in caches]
        entries.plot(times, capacities, ":", color=line.get_color(), label=f"{kind}, capacity")
        rates.plot(times, [cache["hit_rate"] for cache in caches], "o-", label=kind)
    entries.set_ylabel("entries")
    entries.set_ylim(bottom=0)
    rates.set_ylabel("hit rate, percent")
    rates.set_ylim(0, 100)
    for panel in (entries, rates):
        panel.grid(alpha=0.3)
        panel.legend()
    figure.autofmt_xdate()
    figure.savefig(os.fspath(path))
