"""Rebuild the built-in models from nothing.

    python -m asteady.models.training.build --seed 1 --work-dir build/models

Works as a module or as a path, whether or not asteady itself is installed. An interrupted build
goes on from its last checkpoint when it is started again with the same arguments.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    __package__ = "training"
    importlib.import_module(__package__)

MODELS = Path(__file__).resolve().parents[1]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work-dir", type=Path, default=Path("build") / "models")
    parser.add_argument("--out", type=Path, default=MODELS, help="folder for the GGUF files")
    parser.add_argument("--only", choices=["generation", "embedding"])
    parser.add_argument("--steps", type=int, default=6500, help="of the generation model")
    parser.add_argument("--pairs", type=int, default=400_000, help="of the generation corpus")
    # One thread: sums are added up in one order, and a busy machine does not make two wait.
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    card = chosen.out / "CARD.md"
    if chosen.only != "embedding":
        from . import generation

        plan = generation.Plan(
            seed=chosen.seed, steps=chosen.steps, pairs=chosen.pairs, threads=chosen.threads
        )
        work_dir, out = chosen.work_dir / "generation", chosen.out / "generate.gguf"
        facts = generation.build(work_dir, plan, out)
        if importlib.util.find_spec("llama_cpp"):
            from .card import measure

            measure(facts, out, work_dir / "vocabulary.json", card)
        else:
            print("llama-cpp-python is not installed: the card keeps its old figures")
    if chosen.only != "generation":
        from . import embedding, embedding_card

        figures = embedding.build(chosen.work_dir, chosen.seed, chosen.out / "embed.gguf")
        embedding_card.write_section(card, figures)
    from .digests import write_digests

    write_digests(chosen.out)


if __name__ == "__main__":
    main()
