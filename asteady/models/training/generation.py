"""The generation model from nothing: corpus, vocabulary, training, export."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from .dataset import build_examples, prose_texts, training_pairs
from .export import write_gguf
from .network import Shape
from .optimise import Schedule, train
from .vocabulary import load_vocabulary, train_vocabulary


@dataclass(frozen=True)
class Plan:
    """What a build depends on; the same plan gives the same files on the same machine."""

    seed: int = 1
    steps: int = 2500
    pairs: int = 400_000
    prose_repeats: int = 6
    threads: int = 1


def build(work_dir: Path, plan: Plan, out: Path) -> dict[str, object]:
    """Build `out`, going on from what `work_dir` already holds; return facts for the card."""
    work_dir.mkdir(parents=True, exist_ok=True)
    kept = work_dir / "facts.json"
    if kept.exists() and out.exists():
        known: dict[str, object] = json.loads(kept.read_text())
        if known["plan"] == asdict(plan):
            return known
    torch.set_num_threads(plan.threads)
    shape = Shape()
    vocabulary = work_dir / "vocabulary.json"
    if not vocabulary.exists():
        sample = training_pairs(plan.seed, 120_000)
        texts = itertools.chain(
            (pair.prompt for pair in sample),
            (pair.answer for pair in sample),
            prose_texts(plan.seed)[0],
        )
        train_vocabulary(texts, shape.vocab).save(str(vocabulary))
    tokenizer = load_vocabulary(vocabulary)
    examples, counts = build_examples(tokenizer, plan.seed, plan.pairs, plan.prose_repeats)
    print(json.dumps(counts), flush=True)
    schedule = Schedule(steps=plan.steps)
    model, spent = train(shape, examples, schedule, plan.seed, work_dir / "checkpoint.pt")
    write_gguf(out, model, tokenizer)
    facts: dict[str, object] = {
        "plan": asdict(plan),
        "seed": plan.seed,
        "steps": plan.steps,
        "tokens_per_step": schedule.tokens_per_batch,
        "minutes": round(spent / 60),
        "parameters": sum(p.numel() for p in model.parameters()),
        "threads": plan.threads,
        **counts,
    }
    kept.write_text(json.dumps(facts, indent=2))
    return facts
