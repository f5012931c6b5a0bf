"""Task families, a file for each kind of task; importing this package registers them all."""

from . import (
    chat,
    code,
    data,
    documents,
    explain,
    facts,
    guides,
    language,
    lists,
    more,
    office,
    poetry,
    snippets,
    verse,
    work,
)

__all__ = [
    "chat",
    "code",
    "data",
    "documents",
    "explain",
    "facts",
    "guides",
    "language",
    "lists",
    "more",
    "office",
    "poetry",
    "snippets",
    "verse",
    "work",
]
