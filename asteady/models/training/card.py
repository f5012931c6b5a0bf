"""The model card: sections between markers, written by whoever measured them."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from pathlib import Path

from .evaluate import LIMIT, Figures, evaluate

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
    f = figures
    return f"""## Generation model: `generate.gguf`

A llama of 6 layers, width 256, 4 heads, feed-forward 704, tied output: {facts["parameters"]:,}
parameters, {size:,} bytes (matrices Q8_0). MIT licence. 3,072 pieces of byte-level BPE, each
digit a piece; 2,048 positions declared, trained on sequences of up to 1,024.
sha256 `{sha}`.

**Good for** a first minute: haiku, short poems, small Python functions, one-sentence
explanations, commit and error messages, test data, subject lines, short emails, greetings, in
English. **Not for** anything that matters: it knows what its corpus says and little else. Sums,
facts and code outside of it are guesses; long or unusual requests get a short refusal, or a
wrong answer of the right shape. It does not follow system messages and hardly follows earlier
turns.

| figure (greedy, on this file through llama.cpp, {f.prompts:,} held-out prompts) | value |
|---|---|
| perplexity of the held-out answers | {f.perplexity:.2f} |
| perplexity of held-out prose | {f.prose_perplexity:.1f} |
| answers that end by themselves within {LIMIT} tokens (aim: 98 %) | **{f.ended_percent:.1f} %** |
| answers that contain the prompt's key noun (aim: 90 %), where called for ({f.key_noun_prompts}) \
| **{f.key_noun_percent:.1f} %** |
| longest substring that an answer shares with the third-party text \
| {f.longest_shared} characters |
| texts of 1,000 that llama.cpp and the training's tokenizer cut alike | {f.same_tokens} |

Did not end: {_counted(f.never_ended)}.
Missed the key noun: {_counted(f.missed_key)}.
The longest shared substring is `{f.longest_shared_text.strip()}`; in the texts continued below
without the chat template it has {f.longest_shared_raw} characters.

**Held out**: one filler in 25 and one phrasing in 14, by a digest of the text, never reach the
training text, nor does the exact prompt of any pair that uses one. Openings are reworded ("Write
a", "Give me a"): a phrasing is held out if its text is, as it was written or as it is put. Where an
answer can only be known (definitions, the code of a named task, facts), phrasings are held out but
fillers are not.

**Text**: {facts["families"]} task families of `training/corpus/`, written for this model;
{facts["distinct_pairs"]:,} distinct pairs were drawn from them, and short running texts of the same
making. {facts["prose_percent"]} % of the tokens are prose: {facts["prose_documents"]:,} passages
from the docstrings and the language reference that come with Python (PSF licence), read from the
installed Python at training time and stored nowhere else.

**Training**: seed {facts["seed"]}, {facts["steps"]:,} steps of {facts["tokens_per_step"]:,} tokens
(the drawn text has {facts["corpus_tokens"]:,}), then {facts["finish_steps"]:,} at a fifth of the
rate with more of what is to be known by heart; Muon and AdamW, bfloat16 autocast on
{facts["threads"]} CPU thread, {facts["minutes"]} minutes on a {machine()} machine without a GPU
that had other work to do. Rebuild: `nox -s models -- --seed {facts["seed"]}`.

### Samples

Thirty answers, unedited: fifteen prompts that people try first, then fifteen drawn from the
held-out ones.

{samples}

### Continued without the chat template

{raw}
"""


def measure(facts: Mapping[str, object], model: Path, vocabulary: Path, card: Path) -> None:
    """Measure the exported file and write its section."""
    figures = evaluate(model, vocabulary, int(str(facts["seed"])))
    content = model.read_bytes()
    sha = hashlib.sha256(content).hexdigest()
    write_section(card, "generation", generation_section(facts, figures, len(content), sha))
