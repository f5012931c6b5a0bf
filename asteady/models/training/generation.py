"""The generation model from nothing: corpus, vocabulary, training, export."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from .dataset import build_examples, prose_texts, training_pairs
from .export import write_gguf
from .network import Shape
from .optimise import Schedule, save_as_start, train
from .vocabulary import load_vocabulary, train_vocabulary

# What is to be known by heart is seen too rarely in a single pass over the corpus; a last, short
# phase at low rates sees more of it.
EMPHASIS = {
    "arithmetic": 16.0, "capital_city": 4.0, "translate": 4.0, "how_many": 2.0, "opposite": 2.0,
    "series": 3.0, "name_some": 3.0, "summary": 2.0, "long_summary": 2.0, "extract": 3.0,
    "fix_code": 4.0, "test_data": 2.0, "config_file": 2.0, "pet_name": 3.0, "compare": 2.0,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a build depends on; the same plan gives the same files on the same machine."""

    seed: int = 1
    steps: int = 6500
    finish_steps: int = 700
    pairs: int = 400_000
    prose_repeats: int = 6
    threads: int = 1


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def build(work_dir: Path, plan: Plan, out: Path) -> dict[str, object]:
    """Build `out`, going on from what `work_dir` already holds; return facts for the card."""
    work_dir.mkdir(parents=True, exist_ok=True)
    kept = work_dir / "facts.json"
    if kept.exists() and out.exists():
        known: dict[str, object] = json.loads(kept.read_text())
        if known["plan"] == asdict(plan) and known.get("sha256") == digest(out):
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
    checkpoint = work_dir / "checkpoint.pt"
    model, spent = train(shape, examples, schedule, plan.seed, checkpoint)
    if plan.finish_steps:
        # A seed of its own: other pairs than those seen so far.
        examples, _ = build_examples(
            tokenizer, plan.seed + 1, plan.pairs // 4, plan.prose_repeats // 4, EMPHASIS
        )
        last = work_dir / "finish.pt"
        if not last.exists():
            save_as_start(checkpoint, last)
        finish = Schedule(
            steps=plan.finish_steps, decay_from=0.1, matrix_rate=0.004, other_rate=6e-4
        )
        model, spent = train(shape, examples, finish, plan.seed + 1, last)
    write_gguf(out, model, tokenizer)
    facts: dict[str, object] = {
        "plan": asdict(plan),
        "sha256": digest(out),
        "seed": plan.seed,
        "steps": plan.steps,
        "finish_steps": plan.finish_steps,
        "tokens_per_step": schedule.tokens_per_batch,
        "minutes": round(spent / 60),
        "parameters": sum(p.numel() for p in model.parameters()),
        "threads": plan.threads,
        **counts,
    }
    kept.write_text(json.dumps(facts, indent=2))
    return facts
