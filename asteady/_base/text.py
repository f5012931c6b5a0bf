"""Text for people: shortened, and not longer than what it is shown in."""

from __future__ import annotations


def shorten(text: str, limit: int) -> str:
    """The text if it has at most `limit` characters, else its beginning with "..." at the end."""
    return text if len(text) <= limit else text[: limit - 3] + "..."
