"""What commands print, on any encoding: rich text on a terminal, plain text elsewhere.

Standard output has the encoding of the terminal, or UTF-8 if it is a file or a pipe;
``PYTHONIOENCODING`` sets another one. Characters that the encoding lacks are written as escapes of
Python (``\\xe9``, ``\\u20ac``), in JSON as those of JSON.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

import attrs

if TYPE_CHECKING:
    from rich.console import Console

_COLUMNS = 80  # of a terminal that does not say
_GAP = "  "
_LEAST_WRAPPED = 20  # columns: less is a column of single words


def prepare_streams() -> None:
    """Make standard output and standard error take any text, and standard error exist.

    What the library logs begins as other lines there do.
    """
    if sys.stderr is None:
        # `print` would take standard output in its place.
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # until the process ends
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue  # closed, or replaced by who calls `main`
        if stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")
        if not stream.isatty() and "PYTHONIOENCODING" not in os.environ:
            # The same bytes on all systems, Windows too.
            stream.reconfigure(encoding="utf-8", newline="\n")
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(logging.Formatter("asteady: %(message)s"))


def can_print(text: str) -> bool:
    """Whether standard output has all characters of a text."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def as_json(value: Any, *, indent: int | None = None) -> str:
    """JSON for standard output, with escapes if its encoding needs them."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return text if can_print(text) else json.dumps(value, indent=indent)


def print_path(path: str | os.PathLike[str]) -> None:
    """Print a path as the bytes it has: it may be in no encoding, and a shell needs it as it is."""
    sys.stdout.flush()
    sys.stdout.buffer.write(os.fsencode(path) + b"\n")
    sys.stdout.buffer.flush()


def is_dumb() -> bool:
    """Whether the terminal says that it knows no control characters."""
    return os.environ.get("TERM") == "dumb"


def columns_of(stream: TextIO) -> int:
    """The width of the terminal that a stream is."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or _COLUMNS
    except (OSError, ValueError):
        return _COLUMNS


def console_of(stream: TextIO) -> Console | None:
    """rich's console on a terminal; None where the text is plain: no terminal, or no rich."""
    if not stream.isatty() or is_dumb():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(
        file=stream, width=columns_of(stream), highlight=False, markup=False, emoji=False
    )


@attrs.frozen(kw_only=True)
class Column:
    """A column of a table.

    On a terminal that is too narrow, one that `wraps` becomes narrower, then those of the highest
    `spare` are left out, and those of 0 never; `--json` has everything.
    """

    title: str
    right: bool = False
    wraps: bool = False
    spare: int = 0


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[object]]) -> None:
    """Print a table: on a terminal as wide as it is, elsewhere whole."""
    stdout = sys.stdout
    console = console_of(stdout)
    width = columns_of(stdout) if stdout.isatty() else None
    table = _fitting(columns, [[_escaped(str(cell)) for cell in row] for row in rows], width)
    if console is None:
        for line in _plain(*table):
            print(line)
    else:
        console.print(rich_table(*table))


def print_styled(text: str, style: str = "") -> None:
    """Print a line, on a terminal in one of rich's styles."""
    console = console_of(sys.stdout)
    if console is None:
        print(text)
    else:
        console.print(_escaped(text), style=style, soft_wrap=True)


def _fitting(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None
) -> tuple[list[Column], list[list[str]]]:
    """The columns, and their cells, that this width has room for."""
    shown = list(range(len(columns)))

    def too_wide() -> bool:
        widths = [
            min(needed, _LEAST_WRAPPED) if columns[at].wraps else needed
            for at, needed in enumerate(_widths(columns, rows))
            if at in shown
        ]
        return width is not None and sum(widths) + len(_GAP) * (len(widths) - 1) > width

    while too_wide() and (spare := max(columns[at].spare for at in shown)):
        shown = [at for at in shown if columns[at].spare != spare]
    return [columns[at] for at in shown], [[row[at] for at in shown] for row in rows]


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[int]:
    cells = [[column.title for column in columns], *rows]
    return [max(map(len, column)) for column in zip(*cells, strict=True)]


def _plain(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = _widths(columns, rows)
    return [
        _GAP.join(
            cell.rjust(width) if column.right else cell.ljust(width)
            for column, cell, width in zip(columns, line, widths, strict=True)
        ).rstrip()
        for line in ([column.title for column in columns], *rows)
    ]


def rich_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, len(_GAP), 0, 0), header_style="bold")
    for column in columns:
        table.add_column(
            Text(column.title),
            justify="right" if column.right else "left",
            no_wrap=column.right,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _escaped(text: str) -> str:
    """As it will be printed, so that columns are as wide as they look."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, sys.stdout.errors or "backslashreplace").decode(encoding)
