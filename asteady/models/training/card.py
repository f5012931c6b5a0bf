"""The model card: sections between markers, written by whoever measured them."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

from .evaluate import LIMIT, Figures

SKELETON = """# Built-in models

Two small models that make asteady work at once and offline. They are demonstrations, not
advisers: use a larger model for anything that matters.

<!-- generation:begin -->
<!-- generation:end -->

<!-- embedding:begin -->
<!-- embedding:end -->
"""


def write_section(card: Path, name: str, text: str) -> None:
    """Replace what stands between the section's markers; create the card if there is none."""
    old = card.read_text(encoding="utf-8") if card.exists() else SKELETON
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if begin not in old or end not in old:
        raise ValueError(f"{card} has no section {name!r}")
    head, rest = old.split(begin, 1)
    tail = rest.split(end, 1)[1]
    fresh = card.with_suffix(".new")
    fresh.write_text(f"{head}{begin}\n{text.strip()}\n{end}{tail}", encoding="utf-8")
    os.replace(fresh, card)


def machine() -> str:
    """The kind of machine, such as "2-core x86_64"."""
    return f"{os.cpu_count()}-core {platform.machine()}"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items()) or "none"


def _quoted(text: str) -> str:
    return "\n".join("    " + line if line else "" for line in text.splitlines()) or "    "


def generation_section(facts: Mapping[str, object], figures: Figures, size: int, sha: str) -> str:
    samples = "\n\n".join(
        f"**{prompt.strip() or '(empty)'}**\n\n{_quoted(answer)}"
        for prompt, answer in figures.samples
    )
    raw = "\n\n".join(
        f"**{prompt}**\n\n{_quoted(prompt + text)}" for prompt, text in figures.raw_samples
    )
    return f"""## generate.gguf

| | |
|---|---|
| architecture | llama: 6 layers, width 256, 4 heads, feed-forward 704, tied output |
| parameters | {facts["parameters"]:,} |
| file | {size:,} bytes, Q8_0, sha256 `{sha}` |
| vocabulary | 3,072 pieces, byte-level BPE, digits one by one |
| context | 2,048 positions declared; trained on sequences of up to 512 |
| licence | MIT |
| trained on | {facts["examples"]:,} examples ({facts["corpus_tokens"]:,} tokens), of which {facts["steps"]:,} \
steps of {facts["tokens_per_step"]:,} tokens were read |
| seed, threads | {facts["seed"]}, {facts["threads"]} |
| time | {facts["minutes"]} minutes on a {machine()} without a GPU, bfloat16 |

**Data.** {facts["families"]} task families in `training/corpus/`, written for this model: each pair is made
of a phrasing, fillers and an answer; {facts["distinct_pairs"]:,} distinct pairs were drawn. Beside them
stand short running texts of the same making, and {facts["prose_documents"]:,} paragraphs of prose
({facts["prose_percent"]} % of the tokens) from the docstrings and the language reference that
come with Python (PSF licence), read from the installed Python at training time and not stored
here.

**Held out.** One filler in 25 and one phrasing in 14 never reach the training text; a pair that
uses one of them is only measured. Where an answer can only be known (definitions, the code of a
named task, facts), fillers are not held out, only phrasings. Measured on {figures.prompts:,} held-out
prompts, greedily, on this file through llama.cpp:

| | |
|---|---|
| perplexity of the held-out answers | {figures.perplexity:.2f} |
| perplexity of the held-out prose | {figures.prose_perplexity:.1f} |
| answers that end by themselves within {LIMIT} tokens | {figures.ended_percent:.1f} % |
| answers that contain the prompt's key noun | {figures.key_noun_percent:.1f} % of {figures.key_noun_prompts} |
| longest substring shared with the third-party text | {figures.longest_shared} characters |
| texts of 1,000 that llama.cpp cuts into the same tokens | {figures.same_tokens} |

Did not end: {_counted(figures.never_ended)}. Missed the key noun: {_counted(figures.missed_key)}.
The longest shared substring is `{figures.longest_shared_text.strip()}`; that of the five texts continued
below without the chat template has {figures.longest_shared_raw} characters.

**Limits.** English only. It knows what its corpus says and little else; sums beyond 20, facts and
code outside the listed tasks are guesses. Long or unusual requests get a short refusal or a wrong
answer of the right shape. It does not follow system messages. Do not rely on anything it says.

### Samples

Thirty answers, unedited: fifteen prompts that people try first, then fifteen drawn from the
held-out ones.

{samples}

### Continued without the chat template

{raw}
"""
