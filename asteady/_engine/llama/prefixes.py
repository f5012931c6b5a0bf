"""What an embedding model wants before a text that is searched for, or searched in."""

from __future__ import annotations

from asteady._base.errors import ModelCapabilityError
from asteady._base.requests import EmbedMode

# From the models' own cards. The first entry whose name occurs in ``general.name`` counts; spaces
# and underscores in that name count as hyphens.
_PREFIXES: tuple[tuple[str, str, str], ...] = (
    ("nomic-embed", "search_query: ", "search_document: "),
    ("multilingual-e5", "query: ", "passage: "),
    ("e5-small", "query: ", "passage: "),
    ("e5-base", "query: ", "passage: "),
    ("e5-large", "query: ", "passage: "),
    ("embeddinggemma", "task: search result | query: ", "title: none | text: "),
    ("bge-small-en", "Represent this sentence for searching relevant passages: ", ""),
    ("bge-base-en", "Represent this sentence for searching relevant passages: ", ""),
    ("bge-large-en", "Represent this sentence for searching relevant passages: ", ""),
    ("mxbai-embed", "Represent this sentence for searching relevant passages: ", ""),
    ("arctic-embed", "Represent this sentence for searching relevant passages: ", ""),
)


def with_prefix(model_name: str, mode: EmbedMode | None, text: str) -> str:
    """The text as the model wants it in this mode; unchanged when there is no mode.

    Raises:
        ModelCapabilityError: the model is not known to tell queries from documents.
    """
    if mode is None:
        return text
    plain = model_name.lower().replace(" ", "-").replace("_", "-")
    for known, query, document in _PREFIXES:
        if known in plain:
            return (query if mode == "query" else document) + text
    raise ModelCapabilityError(
        f"mode={mode!r} is not known for the model {model_name!r}: leave mode out, and write the "
        "words that the model wants before the text yourself"
    )
