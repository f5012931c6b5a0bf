"""Training examples: conversations and prose as token ids, cut into batches of equal lengths."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tqdm import tqdm

from .corpus import Pair, documents, pairs
from .prose import prose
from .vocabulary import ASSISTANT, END, SYSTEM, USER

# Rows are padded up to the next of these; one compiled graph each.
LENGTHS = (40, 64, 96, 160, 320, 512, 1024)
IGNORED = -1

SYSTEMS = (
    "You are a helpful assistant.", "You are a helpful assistant", "Answer briefly.",
    "You are an assistant who answers in short sentences.", "You are a friendly bot.",
    "Be concise.", "You are a senior Python developer.", "You are a poet.",
    "You are a careful technical writer. Do not use jargon.", "Speak like a teacher.",
    "You are a support agent of an online shop.", "Always be polite.", "You write clean code.",
    "You are asteady's built-in model.", "Help the user as well as you can.",
)  # fmt: skip


@dataclass(frozen=True)
class Example:
    """Token ids, and for each of them whether the model is to learn to say it."""

    tokens: NDArray[np.int16]
    learned: NDArray[np.bool_]


def training_pairs(
    seed: int, count: int, emphasis: Mapping[str, float] = MappingProxyType({})
) -> list[Pair]:
    """`count` pairs without the held-out ones, and without any held-out pair's exact prompt."""
    drawn = list(pairs(seed, count, emphasis))
    forbidden = {pair.prompt.lower() for pair in drawn if pair.held_out}
    return [p for p in drawn if not p.held_out and p.prompt.lower() not in forbidden]


def held_out_pairs(seed: int, count: int) -> list[Pair]:
    return [pair for pair in pairs(seed, count) if pair.held_out]


def prose_texts(seed: int) -> tuple[list[str], list[str]]:
    """The prose to train on, and the twentieth of it that is held out."""
    texts = prose(seed)
    cut = len(texts) // 20
    return texts[cut:], texts[:cut]


class Encoder:
    """Turns pairs and prose into examples with one vocabulary."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        ids = {name: tokenizer.token_to_id(name) for name in (END, USER, ASSISTANT, SYSTEM)}
        self.end, self.user = ids[END], ids[USER]
        self.assistant, self.system = ids[ASSISTANT], ids[SYSTEM]

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]

    def conversations(self, items: list[Pair], seed: int) -> Iterator[Example]:
        """One turn mostly, two to four in every twelfth, a few long ones; one in sixteen has a
        system message.
        """
        rng = random.Random(f"conversations-{seed}")
        prompts = self.encode([pair.prompt.strip() for pair in items])
        answers = self.encode([pair.answer for pair in items])
        systems = self.encode(list(SYSTEMS))
        position = 0
        while position < len(items):
            roll = rng.random()
            turns = 16 if roll < 1 / 400 else rng.choice((2, 2, 3, 4)) if roll < 1 / 12 else 1
            tokens: list[int] = []
            learned: list[bool] = []
            if rng.random() < 1 / 16:
                chosen = rng.choice(systems)
                tokens += [self.system, *chosen, self.end]
                learned += [False] * (len(chosen) + 2)
            for index in range(position, min(position + turns, len(items))):
                prompt, answer = prompts[index], answers[index]
                tokens += [self.user, *prompt, self.end, self.assistant, *answer, self.end]
                learned += [False] * (len(prompt) + 3) + [True] * (len(answer) + 1)
            position += turns
            made = example(tokens, learned)
            # A prompt that fills the longest row leaves no answer to learn.
            if made.learned.any():
                yield made

    def documents(self, texts: list[str]) -> Iterator[Example]:
        for ids in self.encode(texts):
            tokens = [*ids, self.end]
            yield example(tokens, [True] * len(tokens))


def example(tokens: list[int], learned: list[bool]) -> Example:
    longest = LENGTHS[-1] + 1
    return Example(
        np.array(tokens[:longest], dtype=np.int16), np.array(learned[:longest], dtype=np.bool_)
    )


def build_examples(
    tokenizer: Tokenizer,
    seed: int,
    count: int,
    prose_repeats: int,
    emphasis: Mapping[str, float] = MappingProxyType({}),
) -> tuple[list[Example], dict[str, float]]:
    """All training examples, and what the card says about them."""
    encoder = Encoder(tokenizer)
    items = training_pairs(seed, count, emphasis)
    examples: list[Example] = []
    step = 20_000
    for start in tqdm(range(0, len(items), step), desc="encode", unit="x20k"):
        examples.extend(encoder.conversations(items[start : start + step], seed + start))
    examples += encoder.documents(list(documents(seed, count // 30)))
    paragraphs = prose_texts(seed)[0]
    third_party = list(encoder.documents(paragraphs * prose_repeats))
    total = sum(len(e.tokens) for e in (*examples, *third_party))
    return examples + third_party, {
        "examples": len(examples) + len(third_party),
        "corpus_tokens": total,
        "families": len({pair.family for pair in items}),
        "distinct_pairs": len({(pair.prompt, pair.answer) for pair in items}),
        "prose_documents": len(paragraphs),
        "prose_percent": round(100 * sum(len(e.tokens) for e in third_party) / total, 1),
    }


def bucket(length: int) -> int:
    return next(size for size in LENGTHS if length <= size)


def batches(
    examples: list[Example], seed: int, tokens_per_batch: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Endless (inputs, targets) of shape (rows, length), every epoch in another order.

    A batch holds examples of one length class, so little is spent on padding.
    """
    epoch = 0
    sizes = np.array([bucket(len(e.tokens) - 1) for e in examples])
    while True:
        rng = np.random.default_rng([seed, epoch])
        plan: list[NDArray[np.int64]] = []
        for size in LENGTHS:
            members = rng.permutation(np.flatnonzero(sizes == size))
            rows = max(1, tokens_per_batch // size)
            # The last, incomplete batch is dropped, so that every graph has one shape.
            plan += [members[i : i + rows] for i in range(0, len(members) - rows + 1, rows)]
        for index in rng.permutation(len(plan)):
            yield fill([examples[i] for i in plan[index]])
        epoch += 1


def fill(rows: list[Example]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    size = bucket(max(len(row.tokens) for row in rows) - 1)
    inputs = np.zeros((len(rows), size), dtype=np.int64)
    targets = np.full((len(rows), size), IGNORED, dtype=np.int64)
    for i, row in enumerate(rows):
        n = len(row.tokens) - 1
        inputs[i, :n] = row.tokens[:-1]
        targets[i, :n] = np.where(row.learned[1:], row.tokens[1:], IGNORED)
    return inputs, targets
