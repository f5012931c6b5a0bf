"""How many schemas of a collection are followed, and what the rest is refused for.

    nox -s bench -- schemas FOLDER [--number 500] [--seed 1] [--model smollm2]

The folder has JSON files, each a schema, or as in MaskBench an object with a "schema" and "tests",
which have "data" and whether it is "valid": then it is also counted whether the grammar agrees.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
from collections import Counter
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

from asteady._base.constraints import constraint_of
from asteady._base.errors import InvalidRequestError
from asteady._engine.llama.vocab import Vocab
from asteady._engine.loader import load_engine
from asteady._engine.output.grammar import Grammars
from asteady._engine.output.guidance import Matcher
from asteady._engine.plan import EngineOptions, Setup
from tests.benchmarks.harness import table
from tests.benchmarks.models import MODELS, model_file

# What a reason says of one schema only: its place, names and numbers.
_DETAILS = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|\[.*\]|\{.*\}|\S*(#|:/)/\S*|[0-9]+")


def reason_of(error: InvalidRequestError) -> str:
    text = " ".join(str(error).partition(": ")[2].split())
    # The names in this one are of keywords.
    return text if text.startswith("llguidance cannot follow") else _DETAILS.sub("…", text)[:100]


def accepts(matcher: Matcher, tokens: list[int]) -> bool:
    copy = matcher.copy()
    mask = copy.new_mask()
    # As in an answer; a text is looked into further where there is a mask.
    return all(copy.mask_into(mask) and copy.accept(token) for token in tokens) and copy.accepting


def spelled(vocab: Vocab, document: Any) -> list[int] | None:
    """The tokens of a document as an answer has it; None if the model cannot write it."""
    text = json.dumps(document, ensure_ascii=False)
    tokens = vocab.tokenize(text, special=False)
    for found in (tokens, tokens[1:]):  # some tokenizers put a space before a text
        if b"".join(map(vocab.piece, found)) == text.encode():
            return found
    return None


def measure(vocab: Vocab, files: list[Path]) -> None:
    grammars = Grammars(vocab)
    reasons, documents = Counter[str](), Counter[str]()
    seconds, disagreeing = [], []
    for file in files:
        content = json.loads(file.read_text("utf-8"))
        tested = isinstance(content, dict) and "schema" in content and "tests" in content
        schema, tests = (content["schema"], content["tests"]) if tested else (content, [])
        began = perf_counter()
        try:
            constraint = constraint_of(schema=schema)
            assert constraint is not None
            matcher = grammars.compile(constraint)
        except InvalidRequestError as exc:
            reasons[reason_of(exc)] += 1
            continue
        finally:
            seconds.append(perf_counter() - began)
        for test in tests:
            tokens = spelled(vocab, test["data"])
            if tokens is None:
                continue
            accepted = accepts(matcher, tokens)
            documents[
                f"{'valid' if test['valid'] else 'not valid'}, "
                f"{'accepted' if accepted else 'not accepted'}"
            ] += 1
            if accepted and not test["valid"]:
                disagreeing.append(file.name)
    refused = sum(reasons.values())
    table(
        f"{len(files)} schemas",
        ["followed", "share", "ms, median", "ms, 99 of 100 below", "ms, at most"],
        [
            (
                len(files) - refused,
                f"{1 - refused / len(files):.1%}",
                f"{median(seconds) * 1e3:.1f}",
                f"{quantiles(seconds, n=100)[-1] * 1e3:.0f}",
                f"{max(seconds) * 1e3:.0f}",
            )
        ],
    )
    table("Reasons of the rest", ["schemas", "reason"], [(n, r) for r, n in reasons.most_common()])
    table("Their documents", ["number", "documents"], [(n, d) for d, n in documents.most_common()])
    if disagreeing:
        print("\nDocuments are accepted that are not valid:", *sorted(set(disagreeing)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--number", type=int, default=500, help="0: all of them")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", choices=MODELS, default="smollm2")
    options = parser.parse_args()
    found = sorted(options.folder.rglob("*.json"))
    if 0 < options.number < len(found):
        found = random.Random(options.seed).sample(found, options.number)
    with tempfile.TemporaryDirectory() as folder:
        engine = load_engine(
            model_file(options.model, Path(folder)), EngineOptions(), Path(folder), Setup(width=1)
        )
        measure(engine.vocab, found)
        engine.close()
