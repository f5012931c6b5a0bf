"""Measure the exported file, greedily, through llama.cpp: the figures of the model card.

Nothing here is random beyond the seed, so the same file gives the same figures again.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tqdm import tqdm

from .corpus import Pair
from .dataset import held_out_pairs, prose_texts
from .runner import Runner
from .vocabulary import ASSISTANT, END, USER

LIMIT = 128  # tokens within which an answer is to end

# What people try first; the other half of the samples is drawn from the held-out prompts.
FIRST_PROMPTS = (
    "Write a haiku about caching", "hi", "Who are you?", "Explain recursion",
    "Write a Python function to sort a list", "Write a hello world program",
    "Write a subject line for Black Friday sale", "Explain machine learning",
    "Write unit tests", "Generate error message",
    "Write a commit message for a bug fix in the parser",
    "Write a short poem about the moon", "Generate test data for two users",
    "What is the difference between a list and a tuple?",
    "Analyze the socioeconomic impact of automation on rural communities",
)  # fmt: skip
RAW_PROMPTS = ("The old lighthouse", "A function is", "This morning I went", "In Python, a list",
               "Return the")  # fmt: skip


@dataclass
class Score:
    prompts: int = 0
    ended: int = 0
    with_key: int = 0
    had_key: int = 0

    def add(self, pair: Pair, answer: str, ended: bool) -> None:
        self.prompts += 1
        self.ended += ended
        if pair.key_noun is not None:
            self.with_key += 1
            self.had_key += pair.key_noun.lower() in answer.lower()


@dataclass
class Figures:
    """Everything the card states about the generation model's behaviour."""

    prompts: int = 0
    perplexity: float = 0.0
    prose_perplexity: float = 0.0
    ended_percent: float = 0.0
    key_noun_percent: float = 0.0
    key_noun_prompts: int = 0
    same_tokens: int = 0
    longest_shared: int = 0
    longest_shared_text: str = ""
    longest_shared_raw: int = 0
    never_ended: dict[str, int] = field(default_factory=dict)
    missed_key: dict[str, int] = field(default_factory=dict)
    samples: list[tuple[str, str]] = field(default_factory=list)
    raw_samples: list[tuple[str, str]] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def chosen_pairs(seed: int, count: int) -> list[Pair]:
    """Held-out pairs, each prompt once, from a part of the corpus that training never drew."""
    found: dict[str, Pair] = {}
    for pair in held_out_pairs(seed + 1000, count * 20):
        found.setdefault(pair.prompt, pair)
        if len(found) == count:
            break
    return list(found.values())


def longest_shared(answers: list[str], texts: list[str]) -> tuple[int, str]:
    """The longest substring that any answer shares with any of the texts."""
    best, shown = 0, ""
    for length in itertools.count(8):
        grams = {hash(t[i : i + length]) for t in texts for i in range(len(t) - length + 1)}
        hit = next(
            (a[i : i + length] for a in answers for i in range(len(a) - length + 1)
             if hash(a[i : i + length]) in grams),
            None,
        )  # fmt: skip
        if hit is None or not any(hit in text for text in texts):
            return best, shown
        best, shown = length, hit
    raise AssertionError("not reached")


def answer_losses(runner: Runner, pair: Pair) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    head = [*runner.tokens(USER, True), *runner.tokens(pair.prompt.strip()),
            *runner.tokens(END + ASSISTANT, True)]  # fmt: skip
    tail = [*runner.tokens(pair.answer), *runner.tokens(END, True)]
    return runner.losses(head + tail)[len(head) - 1 :]


def agreement(runner: Runner, tokenizer: Tokenizer, texts: list[str]) -> int:
    """How many of the texts llama.cpp cuts exactly as the training's tokenizer does."""
    return sum(runner.tokens(text) == tokenizer.encode(text).ids for text in texts)


def evaluate(model: Path, vocabulary: Path, seed: int, count: int = 1000) -> Figures:
    figures = Figures(prompts=count)
    third_party, unseen = prose_texts(seed)
    tokenizer = Tokenizer.from_file(str(vocabulary))
    items = chosen_pairs(seed, count)
    answers: list[str] = []
    losses = []
    scores: Counter[str] = Counter()
    total = Score()
    never, missed = Counter[str](), Counter[str]()
    with Runner(model) as runner:
        texts = [text for p in items[:400] for text in (p.prompt, p.answer)]
        texts += third_party[: 1000 - len(texts)]
        figures.same_tokens = agreement(runner, tokenizer, texts)
        for pair in tqdm(items, desc="held-out prompts"):
            answer, ended = runner.answer(pair.prompt, LIMIT)
            answers.append(answer)
            total.add(pair, answer, ended)
            scores[pair.family] += 1
            never[pair.family] += not ended
            if pair.key_noun is not None:
                missed[pair.family] += pair.key_noun.lower() not in answer.lower()
            losses.append(answer_losses(runner, pair))
        prose_losses = [
            runner.losses(ids) for text in unseen[:150] if len(ids := runner.tokens(text)[:400]) > 2
        ]
        drawn = random.Random(seed).sample(range(len(items)), 15)
        figures.samples = [(p, runner.answer(p, LIMIT)[0]) for p in FIRST_PROMPTS] + [
            (items[i].prompt, answers[i]) for i in drawn
        ]
        for prompt in RAW_PROMPTS:
            said = b"".join(runner.piece(t) for t in runner.stream(runner.tokens(prompt), 60))
            figures.raw_samples.append((prompt, said.decode("utf-8", "replace")))
    figures.perplexity = float(np.exp(np.concatenate(losses).mean()))
    figures.prose_perplexity = float(np.exp(np.concatenate(prose_losses).mean()))
    figures.ended_percent = 100 * total.ended / total.prompts
    figures.key_noun_percent = 100 * total.had_key / max(1, total.with_key)
    figures.key_noun_prompts = total.with_key
    figures.never_ended = {f: n for f, n in never.most_common() if n}
    figures.missed_key = {f: n for f, n in missed.most_common() if n}
    figures.longest_shared, figures.longest_shared_text = longest_shared(answers, third_party)
    figures.longest_shared_raw, _ = longest_shared(
        [text for _, text in figures.raw_samples], third_party
    )
    return figures
