"""The corpus writer: task families, slot fillers and phrasings, and the pairs made of them."""

from . import families
from .pairs import Pair, documents, family_names, pairs

__all__ = ["Pair", "documents", "families", "family_names", "pairs"]
