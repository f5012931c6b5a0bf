"""What the form of an answer costs: tokens per second with and without, and microseconds a token.

    nox -s bench -- grammar [--models smollm2 gemma builtin] [--rounds 5]

The cost per token is that of the steps of a JSON document that the schema allows, beside that of
llama.cpp's own grammar sampler, which follows the same schema written as GBNF.
"""

from __future__ import annotations

import argparse
import ctypes
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import llama_cpp
import numpy as np

from asteady._base.constraints import Constraint, constraint_of
from asteady._base.requests import GenerateRequest
from asteady._engine.api import AnswerEvent, ErrorEvent
from asteady._engine.llama.engine import LlamaEngine
from asteady._engine.llama.lib import load_model
from asteady._engine.loader import load_engine
from asteady._engine.models.opened import OpenModel
from asteady._engine.models.resolve import ModelFile
from asteady._engine.output.grammar import Form, Grammars, MaskThread
from asteady._engine.plan import EngineOptions, Setup
from tests.benchmarks.harness import in_turns, table
from tests.benchmarks.models import MODELS, UnavailableError, model_file

TOKENS = 64
CONCURRENCIES = (1, 8)
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "color": {"enum": ["red", "green", "blue"]},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 20},
    },
    "required": ["name", "age", "color", "tags"],
    "additionalProperties": False,
}
GBNF = r"""
root ::= "{\"name\": " name ", \"age\": " age ", \"color\": " color ", \"tags\": " tags "}"
name ::= "\"" char{0,40} "\""
age ::= "0" | [1-9] [0-9]? | "1" ([0-4] [0-9] | "50")
color ::= "\"red\"" | "\"green\"" | "\"blue\""
tags ::= "[" string (", " string){19,} "]"
string ::= "\"" char* "\""
char ::= [^"\\\x00-\x1f\x7f] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4})
"""
DOCUMENT = (
    '{"name": "Élise Dupont", "age": 42, "color": "green", "tags": ['
    + ", ".join(f'"tag number {n}: \\"quoted\\", and more"' for n in range(20))
    + "]}"
)


def tokens_per_s(engine: LlamaEngine, concurrency: int, constraint: Constraint | None) -> float:
    """Of the steps in which all sequences are decoded."""
    form = {} if constraint is None else constraint.arguments()
    worker = engine.open_worker()
    for number in range(concurrency):
        request = GenerateRequest.of(
            f"Describe person number {number} as JSON, with many tags",
            max_new_tokens=TOKENS,
            temperature=1.0,
            seed=number,
            **form,
        )
        worker.admit(engine.prepare(request))
    steps_s = []
    ended = 0
    while not ended:
        began = perf_counter()
        events = worker.step()
        steps_s.append(perf_counter() - began)
        ended = sum(isinstance(event, AnswerEvent | ErrorEvent) for event in events)
    worker.close()
    # Prompts are computed between the first steps, and the last one closes what it opened.
    return concurrency / median(steps_s[len(steps_s) // 3 : -1])


def form_us(engine: LlamaEngine, constraint: Constraint, tokens: list[int]) -> float:
    form = Form(Grammars(engine.vocab).compile(constraint), MaskThread())
    logits = np.zeros(engine.vocab.size, np.float32)
    costs_s = []
    for token in tokens:
        began = perf_counter()
        form.apply(logits)
        form.accept(token)
        costs_s.append(perf_counter() - began)
    return sum(costs_s) / len(costs_s) * 1e6


def gbnf_us(file: ModelFile, tokens: list[int]) -> float:
    """What llama.cpp's sampler takes to look at all tokens, as it must to draw from them."""
    files = OpenModel(file)
    model = load_model(files, repack=False, vocabulary_only=True)
    vocab = llama_cpp.llama_model_get_vocab(model)
    size = llama_cpp.llama_vocab_n_tokens(vocab)
    sampler = llama_cpp.llama_sampler_init_grammar(vocab, GBNF.encode(), b"root")
    data = (llama_cpp.llama_token_data * size)()
    ids = np.ctypeslib.as_array(data)
    array = llama_cpp.llama_token_data_array(data, size, -1, False)
    costs_s = []
    for token in tokens:
        ids["id"], ids["logit"] = np.arange(size), 0.0
        array.size, array.selected = size, -1
        began = perf_counter()
        llama_cpp.llama_sampler_apply(sampler, ctypes.byref(array))
        llama_cpp.llama_sampler_accept(sampler, token)
        costs_s.append(perf_counter() - began)
    llama_cpp.llama_sampler_free(sampler)
    llama_cpp.llama_model_free(model)
    files.close()
    return sum(costs_s) / len(costs_s) * 1e6


def measure(name: str, rounds: int, folder: Path) -> None:
    file = model_file(name, folder)
    engine = load_engine(file, EngineOptions(), folder, Setup(width=max(CONCURRENCIES)))
    constraint = constraint_of(schema=SCHEMA)
    assert constraint is not None
    began = perf_counter()
    Grammars(engine.vocab).compile(constraint)
    first_ms = (perf_counter() - began) * 1e3
    rows = []
    for concurrency in CONCURRENCIES:
        runs: dict[str, Callable[[], float]] = {
            "free": lambda n=concurrency: tokens_per_s(engine, n, None),  # type: ignore[misc]
            "form": lambda n=concurrency: tokens_per_s(engine, n, constraint),  # type: ignore[misc]
        }
        found = in_turns(runs, rounds)
        free, form = found["free"][0], found["form"][0]
        rows.append((concurrency, f"{free:.1f}", f"{form:.1f}", f"{form / free:.3f}"))
    table(
        f"{name}: tokens per second",
        ["at once", "without a form", "with a schema", "ratio"],
        rows,
    )
    tokens = engine.vocab.tokenize(DOCUMENT, special=False)
    if b"".join(map(engine.vocab.piece, tokens)) != DOCUMENT.encode():
        tokens = tokens[1:]  # a space that the tokenizer puts before it
    own = min(form_us(engine, constraint, tokens) for _ in range(rounds))
    other = gbnf_us(file, tokens)
    table(
        f"{name}: a vocabulary of {engine.vocab.size:,}",
        ["first form of a model, ms", "asteady, us a token", "llama.cpp's grammar, us a token"],
        [(f"{first_ms:.0f}", f"{own:.0f}", f"{other:.0f}")],
    )
    engine.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["smollm2", "builtin"])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            try:
                measure(model, options.rounds, Path(folder))
            except UnavailableError as exc:
                print(f"\n{model}: {exc}")
