"""Write the reference vectors that `tests/test_minilm.py` compares with: the teacher in PyTorch.

python -m asteady.models.training.minilm_reference tests/data/minilm_reference.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from .teacher import Teacher

SENTENCES = [
    "The cat sat on the mat.",
    "A kitten is resting on a rug.",
    "Stock prices fell sharply after the announcement.",
    "How do I reverse a list in Python?",
    "Return the elements of a sequence in opposite order.",
    "parse_qs(qs, keep_blank_values=False, strict_parsing=False)",
    "Write a haiku about caching",
    "async cache",
    "The train to Zürich leaves at 9:45, doesn't it?",
    "naïve café, jalapeño & crème brûlée",
    "It is raining cats and dogs.",
    "The weather is terrible today.",
    "Quantum entanglement links the states of distant particles.",
    "She won the gold medal in the hundred metres.",
    "The bank approved our mortgage application.",
    "We had a picnic on the bank of the river.",
    "E=mc^2; x_1 + x_2 >= 10 (see [3])",
    "TODO: fix the off-by-one error in the loop",
    "antidisestablishmentarianism",
    "Deterministic answers are remembered; the same question is never computed twice, however "
    "many callers ask it at the same time, and whatever else the machine is doing meanwhile.",
]


def main(out: Path) -> None:
    """Three decimals are enough: they move a cosine by less than 1e-4."""
    vectors = Teacher().encode(SENTENCES)
    rounded = [[round(float(value), 3) for value in vector] for vector in np.asarray(vectors)]
    rows = ",\n".join(
        f"{json.dumps({'text': text, 'vector': vector}, separators=(',', ':'))}"
        for text, vector in zip(SENTENCES, rounded, strict=True)
    )
    out.write_text(f"[\n{rows}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
