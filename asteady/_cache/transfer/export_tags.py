"""The tables of an export that say which namespaces hold its entries."""

from __future__ import annotations

import sqlite3
import sys

from asteady._base.errors import InvalidRequestError
from asteady._base.requests import Key, namespace_path

# Held in memory, some dozens of bytes each.
MAX_TAGS = 4_000_000


def tag_schema(kind: str) -> str:
    """The table of one cache's entries and namespaces."""
    return (
        f"CREATE TABLE {kind}_tag (key TEXT NOT NULL, namespace TEXT NOT NULL,"
        " PRIMARY KEY (key, namespace)) WITHOUT ROWID"
    )


def write_tags(
    out: sqlite3.Connection, copy: sqlite3.Connection, kind: str, key: Key, slot: int
) -> None:
    """Write the tags of one entry, which is in this slot of the copied database."""
    tags = copy.execute("SELECT ?, namespace FROM tag WHERE slot = ?", (key, slot)).fetchall()
    if tags:
        out.executemany(f"INSERT INTO {kind}_tag VALUES (?, ?)", tags)


def read_tags(connection: sqlite3.Connection, kind: str) -> dict[Key, list[str]]:
    """The namespaces that hold the entries of one cache, by key.

    Raises:
        InvalidRequestError: there are too many, or one is no path of a namespace.
    """
    found: dict[Key, list[str]] = {}
    rows = connection.execute(f"SELECT key, namespace FROM {kind}_tag")
    for count, (key, path) in enumerate(rows, 1):
        if count > MAX_TAGS:
            raise InvalidRequestError(f"its namespaces hold more than {MAX_TAGS:,} entries")
        # Thousands of entries have the same few.
        found.setdefault(key, []).append(sys.intern(namespace_path(path)))
    return found
