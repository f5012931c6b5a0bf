"""The curve of ``asteady cache size``, drawn in characters."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asteady.operate import Curve, SizeGoal, SizeRecommendation

BLOCKS = " ▁▂▃▄▅▆▇█"
_ASCII = " .:#"
_HEIGHT = 10
_AXIS = 6  # columns: "100 % "
_WIDEST = 72
_NARROWEST = 16


def draw_curve(
    curve: Curve, found: SizeRecommendation, columns: int, blocks: bool, by: SizeGoal
) -> list[str]:
    """What share each capacity saves, as an area in so many columns, with marks below it.

    The capacities have a logarithmic scale, from 1 entry to the largest that makes a difference, or
    to the current one. Some key was used twice, so that `found` has a size.
    """
    width = max(_NARROWEST, min(_WIDEST, columns - 1) - _AXIS)
    largest = max(curve.capacities[-1], found.current_entries, found.entries, 2)
    rate_at = curve.saved_rate if by == "seconds" else curve.hit_rate
    # A column stands for the capacities up to its own, so that a mark is below its rate.
    shares = [rate_at(round(largest ** (at / (width - 1)))) for at in range(width)]
    lines = [f"share of {'computing time' if by == 'seconds' else 'requests'} saved"]
    for row in reversed(range(_HEIGHT)):
        label = f"{100 * (row + 1) // _HEIGHT} %" if row in (_HEIGHT // 2 - 1, _HEIGHT - 1) else ""
        cells = "".join(_cell(share * _HEIGHT - row, blocks) for share in shares)
        lines.append(f"{label:>{_AXIS - 1}} {cells}".rstrip())
    ends = "1" + f"{largest:,} entries".rjust(width - 1)
    lines.append(" " * _AXIS + ends)

    def mark(capacity: int, text: str) -> str:
        at = round(log(max(capacity, 1)) / log(largest) * (width - 1))
        said = f"^ {text}" if at + 2 + len(text) <= width else f"{text} ^"
        return " " * (_AXIS + (at if said[0] == "^" else max(at - len(text) - 1, 0))) + said

    lines.append(mark(found.current_entries, f"now: {found.current_entries:,}"))
    share = f"{100 * found.target:.0f} % of the best: {found.entries:,}"
    lines.append(mark(found.entries, share))
    return lines


def _cell(filled: float, blocks: bool) -> str:
    """A character that is filled from below, from 0 to 1."""
    levels = BLOCKS if blocks else _ASCII
    return levels[round(min(max(filled, 0.0), 1.0) * (len(levels) - 1))]
