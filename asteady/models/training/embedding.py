"""Build the built-in embedding model: text, vocabulary, distillation, export, figures.

    python -m asteady.models.training.embedding --work-dir build --out embed.gguf --seed 1

Every stage leaves its result in the work folder, named by seed and version, and is skipped when
it is there: an interrupted build goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from .embedding_card import write_section
from .embedding_data import Data, assemble
from .embedding_measure import FloatArray, GgufEncoder, odd_texts, retrieval_rate, spearman
from .embedding_model import Shape, Student, export, train
from .embedding_sources import versions
from .embedding_tokens import Encoder, load, save, train_vocabulary, words
from .teacher import DIMENSIONS, Teacher

_CHUNK = 4000
_BATCH = 320
_PLAIN = Path(__file__).with_name("embedding_plain.txt")
_DESCRIPTION = (
    "Small sentence-embedding model of asteady: English sentences, Python names and docstrings; "
    "distilled from all-MiniLM-L6-v2."
)


@cache
def _own_teacher() -> Teacher:
    torch.set_num_threads(1)
    return Teacher()


def _teach(chunk: list[str]) -> npt.NDArray[np.float16]:
    """What runs in a process of its own."""
    return _own_teacher().encode(chunk, exact=False).astype(np.float16)


def teach(texts: Sequence[str], folder: Path) -> npt.NDArray[np.float16]:
    """The teacher's vectors of all texts; finished chunks are kept in `folder`.

    One single-threaded process per core: threads of one process wait for each other at every
    operation, and crawl as soon as something else runs on the machine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    chunks = [order[start : start + _CHUNK] for start in range(0, len(order), _CHUNK)]
    out = np.empty((len(texts), DIMENSIONS), dtype=np.float16)

    def name(chunk: list[int]) -> Path:
        digest = hashlib.sha256("\0".join(texts[i] for i in chunk).encode()).hexdigest()
        return folder / f"{digest[:20]}.npy"

    todo = [chunk for chunk in chunks if not name(chunk).exists()]
    bar = tqdm(total=len(chunks), initial=len(chunks) - len(todo), desc="teacher", mininterval=10)
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        results = pool.map(_teach, [[texts[i] for i in chunk] for chunk in todo])
        for chunk, vectors in zip(todo, results, strict=True):
            temporary = name(chunk).with_suffix(".tmp.npy")
            np.save(temporary, vectors)
            temporary.replace(name(chunk))
            bar.update()
    bar.close()
    for chunk in chunks:
        out[chunk] = np.load(name(chunk))
    return out


def projection(vectors: npt.NDArray[np.float16], width: int) -> FloatArray:
    """(384, width) matrix onto the directions that carry most of the teacher's vectors.

    Not centred: cosines are to be kept, and they are taken about the origin.
    """
    sample = vectors[:: max(1, len(vectors) // 40_000)].astype(np.float64)
    _, directions = np.linalg.eigh(sample.T @ sample)
    return np.ascontiguousarray(directions[:, ::-1][:, :width]).astype(np.float32)


def first_guess(pieces: Sequence[str], basis: FloatArray) -> torch.Tensor:
    """Token vectors to begin with: what the teacher makes of each piece on its own."""
    vectors = Teacher().encode([piece.removeprefix("##") or piece for piece in pieces])
    # Centred: what all words have in common would make all texts alike.
    vectors -= vectors.mean(axis=0)
    guess = torch.from_numpy(vectors @ basis)
    inside = torch.tensor([piece.startswith("##") and len(piece) > 2 for piece in pieces])
    guess[inside] *= 0.3
    scaled: torch.Tensor = guess * (0.1 * guess.shape[1] ** 0.5)
    return scaled


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)


def _check_tokens(student: GgufEncoder, pieces: Sequence[str], texts: Sequence[str]) -> int:
    """Refuse a vocabulary that llama.cpp cuts otherwise than training did."""
    checked = [*odd_texts(random.Random(0), 500), *texts[:500]]
    for text, expected in zip(checked, Encoder(pieces, 10**6).encode(checked), strict=True):
        found = student.tokens(text)
        if found != expected:
            raise SystemExit(f"{text!r}: trained on the tokens {expected}, llama.cpp has {found}")
    return len(checked)


def measure(out: Path, data: Data, pieces: Sequence[str]) -> dict[str, Any]:
    """The card's figures: correlation with the teacher and retrieval, student and teacher."""
    teacher = Teacher()
    texts = sorted({text for pair in data.pairs for text in pair[1:]})
    where = {text: index for index, text in enumerate(texts)}
    first = [where[pair.first] for pair in data.pairs]
    second = [where[pair.second] for pair in data.pairs]
    signatures = [f.signature for f in data.functions]
    summaries = [f.summary for f in data.functions]
    figures: dict[str, Any] = {}
    with GgufEncoder(out) as student:
        figures["tokens_checked"] = _check_tokens(student, pieces, texts)
        mine, theirs = student.encode(texts), teacher.encode(texts)
        a = (mine[first] * mine[second]).sum(1)
        b = (theirs[first] * theirs[second]).sum(1)
        figures["pairs"] = len(data.pairs)
        figures["spearman"] = spearman(a, b)
        figures["pearson"] = float(np.corrcoef(a, b)[0, 1])
        kinds = np.array([pair.kind for pair in data.pairs])
        figures["by_kind"] = {
            str(kind): {
                "pairs": int((kinds == kind).sum()),
                "spearman": spearman(a[kinds == kind], b[kinds == kind]),
            }
            for kind in dict.fromkeys(kinds)
        }
        quantiles = np.quantile(b, [0.05, 0.25, 0.5, 0.75, 0.95])
        figures["teacher_cosine_quantiles"] = quantiles.tolist()
        plain = _PLAIN.read_text(encoding="utf-8").splitlines()
        upper = np.triu_indices(len(plain), k=1)
        mine, theirs = student.encode(plain), teacher.encode(plain)
        figures["plain_pairs"] = len(upper[0])
        figures["spearman_plain"] = spearman((mine @ mine.T)[upper], (theirs @ theirs.T)[upper])
        figures["functions"] = len(data.functions)
        figures["retrieval_student"] = retrieval_rate(
            student.encode(signatures), student.encode(summaries)
        )
        figures["retrieval_teacher"] = retrieval_rate(
            teacher.encode(signatures), teacher.encode(summaries)
        )
        start = time.perf_counter()
        student.encode(summaries)
        figures["ms_per_sentence"] = 1000 * (time.perf_counter() - start) / len(summaries)
    return figures


def build(work_dir: Path, seed: int, out: Path, first_version: bool = False) -> dict[str, Any]:
    """Build `out` from nothing (or from what `work_dir` already has); return the card's figures.

    `first_version` trains on a part of the text, for minutes: a smaller model, to begin with.
    """
    _seed_everything(seed)
    folder = work_dir / f"embedding-{seed}{'-first' if first_version else ''}"
    folder.mkdir(parents=True, exist_ok=True)
    data = assemble(seed, Teacher().vocabulary(), first_version=first_version)
    texts = [text for group in data.groups for text in group.texts]
    starts = np.cumsum([0] + [len(group.texts) for group in data.groups])
    groups = [list(range(a, b)) for a, b in pairwise(starts.tolist())]

    size, layers, steps = (8192, 3, 600) if first_version else (12_288, 3, 2000)
    vocabulary = folder / "vocabulary.txt"
    if not vocabulary.exists():
        save(train_vocabulary(_vocabulary_texts(texts), size), vocabulary)
    pieces = load(vocabulary)
    shape = Shape(vocabulary=len(pieces), layers=layers)
    tokens = Encoder(pieces, max_tokens=160).encode(texts)

    vectors = teach(texts, work_dir / "teacher")
    basis = projection(vectors, shape.width)
    student = Student(shape, first_guess(pieces, basis))
    loss, spent_s = train(
        student,
        tokens,
        groups,
        vectors,
        basis,
        steps=steps,
        width=_BATCH,
        seed=seed,
        checkpoint=folder / "checkpoint.pt",
    )
    export(student, pieces, out, _DESCRIPTION)
    kept = np.linalg.norm(vectors[:10_000].astype(np.float32) @ basis, axis=1)
    return {
        "seed": seed,
        "steps": steps,
        "batch": _BATCH,
        "threads": torch.get_num_threads(),
        "texts": len(texts),
        "groups": len(groups),
        "tokens": sum(map(len, tokens)),
        "unknown_share": sum(row.count(1) for row in tokens) / sum(map(len, tokens)),
        "vocabulary": len(pieces),
        "layers": layers,
        "width": shape.width,
        "inner": shape.inner,
        "heads": shape.heads,
        "parameters": sum(p.numel() for p in student.parameters()),
        "bytes": out.stat().st_size,
        "loss": loss,
        "norm_kept_by_projection": float(kept.mean()),
        "python": platform.python_version(),
        "sources": versions(),
        "training_minutes": spent_s / 60,
        **measure(out, data, pieces),
    }


def _vocabulary_texts(texts: Sequence[str]) -> list[str]:
    """All texts, with the language's words once more as often as their rank suggests (Zipf)."""
    out = list(texts)
    common = [piece for piece in Teacher().vocabulary() if piece.isascii() and piece.isalpha()]
    for rank, word in enumerate(common):
        out.append(" ".join([words(word)] * (40_000 // (rank + 50))))
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first-version", action="store_true")
    parser.add_argument("--card", type=Path, help="fill in the model's part of this card")
    args = parser.parse_args(arguments)
    figures = build(args.work_dir, args.seed, args.out, args.first_version)
    if args.card:
        write_section(args.card, figures)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
