"""Lines over a few numbers of something, in the colours of `plots`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

import attrs

STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600 }
  .line { fill: none; stroke: #8c959f; stroke-width: 2 }
  .ours { stroke: #2f81f7 }
  .axis { stroke: #8c959f; stroke-opacity: 0.3 }
  @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } }
"""
WIDTH, LEFT, RIGHT, TOP, HEIGHT, BOTTOM = 720, 44, 180, 32, 220, 44
# Between two labels at the ends of lines.
APART = 17
DASHES = ("", "7 4", "2 3", "10 3 2 3")


@attrs.frozen(kw_only=True)
class Lines:
    """The columns of a table as lines over its first column, whose cells are evenly spaced.

    Of a cell its first number is drawn. `columns` has each line's label by the column's head;
    `ours` is the one in colour.
    """

    name: str
    table: str
    title: str
    below: str
    """What the first column is."""
    columns: dict[str, str]
    ours: str


def ticks(largest: float) -> list[float]:
    """Round numbers from 0 to at least the largest."""
    step = 10.0 ** math.floor(math.log10(largest))
    step = next(step * part for part in (0.2, 0.5, 1, 2) if largest <= 5 * step * part)
    return [step * number for number in range(math.ceil(largest / step) + 1)]


def parts(plot: Lines, table: dict[str, Any], number: Callable[[str], str]) -> Iterator[str]:
    rows = table["rows"]
    lines = {
        head: [float(number(row[table["head"].index(head)]).replace(",", "")) for row in rows]
        for head in plot.columns
    }
    marks = ticks(max(itertools.chain.from_iterable(lines.values())))
    right, bottom = WIDTH - RIGHT, TOP + HEIGHT

    def x(place: int) -> float:
        return LEFT + 16 + place * (right - LEFT - 32) / (len(rows) - 1)

    def y(value: float) -> float:
        return bottom - value / marks[-1] * HEIGHT

    yield f'<text x="0" y="16" class="title">{escape(plot.title)}</text>'
    for mark in marks:
        yield f'<path d="M{LEFT} {y(mark):.1f}H{right}" class="axis"/>'
        yield f'<text x="{LEFT - 8}" y="{y(mark) + 4:.1f}" text-anchor="end">{mark:,g}</text>'
    for place, row in enumerate(rows):
        yield f'<text x="{x(place):.1f}" y="{bottom + 18}" text-anchor="middle">{row[0]}</text>'
    below = f'x="{(LEFT + right) / 2:.1f}" y="{bottom + 37}" text-anchor="middle"'
    yield f"<text {below}>{escape(plot.below)}</text>"
    dashes = iter(DASHES)
    for head, values in lines.items():
        path = "L".join(f"{x(place):.1f} {y(value):.1f}" for place, value in enumerate(values))
        kind = ' class="line ours"' if head == plot.ours else f' class="line" {_dash(next(dashes))}'
        yield f'<path d="M{path}"{kind.rstrip()}/>'
    # Labels stand beside the ends of their lines, moved down where they would meet.
    free = -math.inf
    for head in sorted(lines, key=lambda head: -lines[head][-1]):
        free = max(free + APART, y(lines[head][-1]) + 4)
        value = number(rows[-1][table["head"].index(head)])
        yield f'<text x="{right + 4}" y="{free:.1f}">{value} {escape(plot.columns[head])}</text>'


def _dash(pattern: str) -> str:
    return f'stroke-dasharray="{pattern}"' if pattern else ""


def svg(plot: Lines, table: dict[str, Any], number: Callable[[str], str]) -> str:
    """The plot; `number` finds the figure that is drawn in a cell."""
    height = TOP + HEIGHT + BOTTOM
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" role="img">',
            f"<title>{escape(plot.title)}</title>",
            f"<style>{STYLE}</style>",
            *parts(plot, table, number),
            "</svg>\n",
        ]
    )
