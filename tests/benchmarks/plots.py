"""Draws the plots of the documentation from the figures in docs/plots/figures.json.

``nox -s bench -- plots`` after the figures have changed. The tables there are as the benchmarks
write them with ``--figures``, or parts of them. The plots are written by hand instead of by
matplotlib: text stays text, the colours follow the reader's light or dark theme, and the same
figures are the same bytes, so that a test can compare them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import attrs

from tests.benchmarks import plot_lines
from tests.benchmarks.plot_lines import Lines

PLACE = Path(__file__).parents[2] / "docs" / "plots"

# A gray for all that is not asteady's, which is seen on white and on black.
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600 }
  .value { font-variant-numeric: tabular-nums }
  .bar { fill: #8c959f }
  .ours { fill: #2f81f7 }
  @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } }
"""
WIDTH, LEFT, RIGHT, ROW = 720, 250, 70, 24


@attrs.frozen(kw_only=True)
class Plot:
    """Bars of the columns of a table, one group for each column."""

    name: str
    table: str
    columns: dict[str, str]
    """The group's title by the column's head."""


PLOTS = [
    Plot(
        name="policy",
        table="The policy",
        columns={
            "hits, %": "Accesses that hit, %: more is better",
            "computing time saved, %": "Computing time saved, %: more is better",
        },
    ),
    Plot(
        name="warm-hit",
        table="A warm hit",
        columns={"us": "A hit in memory, microseconds: less is better"},
    ),
    Plot(
        name="tasks",
        table="1,000 tasks at once",
        columns={
            "all done, ms": "All of 1,000 tasks done, ms: less is better",
            "stall of the loop, p99.9, ms": "Stall of the loop (p99.9), ms: less is better",
        },
    ),
    Plot(
        name="throughput",
        table="Throughput",
        columns={
            "SmolLM2, tokens/s": "SmolLM2 135M, 8 requests, tokens a second: more is better",
            "Gemma, tokens/s": "Gemma 3 270M, 8 requests, tokens a second: more is better",
        },
    ),
    Plot(
        name="chats",
        table="Chats",
        columns={
            "SmolLM2": "SmolLM2 135M, third turn of a chat, s to the first token: less is better",
            "Gemma": "Gemma 3 270M, third turn of a chat, s to the first token: less is better",
        },
    ),
    Plot(
        name="server",
        table="How fast",
        columns={"httptools": "Remembered answers a second over HTTP, one core: more is better"},
    ),
    Plot(
        name="scale-redis",
        table="Where answers come from",
        columns={
            "local, %": "Answered by the server's own cache, % of requests",
            "commands a request": "Commands to Redis, for each request",
        },
    ),
]
LINES = [
    Lines(
        name="scale-computed",
        table="The same requests on more servers",
        title="Requests that are computed, %: less is better",
        below="app servers",
        columns={
            "local only": "local only",
            "local only, by user": "local only, by user",
            "by key": "routed by key",
            "shared": "shared",
        },
        ours="shared",
    ),
    Lines(
        name="scale-prefixes",
        table="Replicas that keep prefixes",
        title="Blocks of prompts that are computed, %: less is better",
        below="replicas of the engine",
        columns={
            "in turn, %": "in turn",
            "by beginning, %": "by beginning",
            "by prefix, %": "by prefix",
        },
        ours="in turn, %",
    ),
]


def number(cell: str) -> str:
    """The figure that is drawn: the first one in a cell, as "1.44 (1.41)" or "8,721"."""
    found = re.search(r"\d[\d,]*(?:\.\d+)?", cell)
    assert found is not None, cell
    return found[0]


def bars(rows: Sequence[Sequence[str]], column: int, y: int) -> Iterator[str]:
    shown = [(row[0].replace("`", ""), number(row[column])) for row in rows]
    largest = max(float(figure.replace(",", "")) for _, figure in shown)
    for label, figure in shown:
        length = max(1.0, float(figure.replace(",", "")) / largest * (WIDTH - LEFT - RIGHT))
        ours = label.startswith(("asteady", "tide"))
        middle = y + ROW // 2 + 1
        yield f'<text x="{LEFT - 8}" y="{middle + 4}" text-anchor="end">{escape(label)}</text>'
        yield (
            f'<rect x="{LEFT}" y="{y + 4}" width="{length:.1f}" height="{ROW - 7}" rx="2" '
            f'class="bar{" ours" if ours else ""}"/>'
        )
        yield f'<text x="{LEFT + length + 6:.1f}" y="{middle + 4}" class="value">{figure}</text>'
        y += ROW


def svg(plot: Plot, table: dict[str, Any]) -> str:
    lines: list[str] = []
    y = 0
    for head, title in plot.columns.items():
        column = table["head"].index(head)
        y += ROW
        lines.append(f'<text x="0" y="{y - 6}" class="title">{escape(title)}</text>')
        lines += bars(table["rows"], column, y)
        y += ROW * len(table["rows"]) + 8
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" '
            f'height="{y}" role="img">',
            f"<title>{escape(plot.table)}</title>",
            f"<style>{STYLE}</style>",
            *lines,
            "</svg>\n",
        ]
    )


def drawn() -> dict[str, str]:
    """The text of each file."""
    tables = {
        table["title"]: table for table in json.loads((PLACE / "figures.json").read_text("utf-8"))
    }
    return {
        **{f"{plot.name}.svg": svg(plot, tables[plot.table]) for plot in PLOTS},
        **{f"{plot.name}.svg": plot_lines.svg(plot, tables[plot.table], number) for plot in LINES},
    }


if __name__ == "__main__":
    for name, text in drawn().items():
        (PLACE / name).write_text(text, "utf-8")
        print(PLACE / name)
