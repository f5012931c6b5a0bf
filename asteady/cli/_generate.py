"""``asteady generate`` and ``asteady embed``"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import sys
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, TextIO, get_args

from asteady._base.errors import InvalidRequestError
from asteady._base.files import atomic_write
from asteady._base.messages import ToolCall
from asteady._base.requests import OWN_END, EmbedMode, ReasoningChunk, Vector
from asteady.cli._common import (
    Commands,
    activities_of,
    add_max_new_tokens,
    add_messages,
    add_request,
    add_seed,
    calls_under,
    make_session,
    prompt_arguments,
    read_file,
    read_standard_input,
    text_argument,
)
from asteady.cli._output import as_json, is_dumb
from asteady.cli._progress import Progress, progress, speaks, summary

if TYPE_CHECKING:
    from asteady._session.generation import Stream


def add_parser(commands: Commands) -> None:
    """Both commands."""
    _add_generate(commands)
    _add_embed(commands)


def _add_generate(commands: Commands) -> None:
    parser = commands.add_parser(
        "generate",
        help="generate text",
        description="Generate text and print it while it is computed. Calls of tools are printed"
        " after it, each as a line of JSON.",
        examples=(
            'asteady generate "Write a haiku about caching" --seed 7',
            'asteady generate "Is it good?" --choices good bad',
            "asteady generate --messages chat.json --json",
        ),
    )
    parser.add_argument("prompt", nargs="?", help="the prompt; default, or -: standard input")
    add_seed(parser)
    add_max_new_tokens(parser)
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="how much is left to chance; default: 0, always the likeliest token",
    )
    for name, kind, what in (
        ("--top-k", int, "draw from the N likeliest tokens"),
        ("--top-p", float, "draw from the likeliest tokens that have this probability together"),
        ("--min-p", float, "draw from tokens with at least this share of the likeliest's"),
        ("--repeat-penalty", float, "divide the logits of tokens that were there already by this"),
    ):
        parser.add_argument(name, type=kind, metavar="N", help=f"{what}; default: off")
    parser.add_argument(
        "--stop",
        action="append",
        metavar="TEXT",
        help="stop before this text; may be given several times",
    )
    parser.add_argument(
        "--eos-string",
        default=OWN_END,
        metavar="TEXT",
        help="the same as --stop TEXT, for users of SteadyText; default: %(default)s, the model's"
        " own end",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--schema", metavar="FILE", help="answer with JSON by the JSON schema in this file"
    )
    form.add_argument(
        "--choices",
        nargs="+",
        metavar="TEXT",
        help="answer with one of these; the prompt comes before them",
    )
    form.add_argument(
        "--regex", metavar="REGEX", help="answer with a text that matches all of this"
    )
    form.add_argument(
        "--grammar", metavar="FILE", help="answer by the grammar in this file, in Lark's syntax"
    )
    add_messages(parser)
    parser.add_argument(
        "--no-stream", action="store_true", help="print the text when it is complete"
    )
    parser.add_argument(
        "--reasoning",
        action=argparse.BooleanOptionalAction,
        help="print the reasoning of a thinking model on standard error; default: on a terminal",
    )
    add_request(parser, "print the whole answer as JSON")
    parser.set_defaults(run=run_generate)


def _add_embed(commands: Commands) -> None:
    parser = commands.add_parser(
        "embed",
        help="embed texts",
        description="Embed each text and print its vector on one line.",
        examples=(
            'asteady embed "async cache" "a queue"',
            "asteady embed --npy vectors.npy <texts.txt",
        ),
    )
    parser.add_argument("text", nargs="*", help="the texts; default: the lines of standard input")
    parser.add_argument(
        "--npy",
        metavar="FILE",
        help="write the vectors into this file of NumPy: float32, of shape (texts, dimensions)",
    )
    parser.add_argument(
        "--truncate", action="store_true", help="cut texts that are longer than the model's context"
    )
    parser.add_argument(
        "--mode",
        choices=get_args(EmbedMode),
        help="embed with the model's instruction for a query or a document, if it has one",
    )
    parser.add_argument(
        "--dimensions",
        type=int,
        metavar="N",
        help="the first N numbers of a vector, with norm 1, of models that are trained for it",
    )
    add_request(parser, "print the vectors as JSON, a list of numbers for each text")
    parser.set_defaults(run=run_embed)


def run_generate(options: argparse.Namespace) -> int:
    swallowed = options.choices and options.prompt is None and options.messages is None
    missing = _swallowed(options.choices) if swallowed else None
    if missing is not None and (sys.stdin is None or sys.stdin.isatty()):
        raise InvalidRequestError(missing)
    what = prompt_arguments(options, missing)
    return asyncio.run(_generate(options, {**what, **_form(options)}))


def _swallowed(given: list[str]) -> str:
    """The prompt was taken for the last choice: ``--choices good bad "Is it good?"``."""
    *choices, last = map(shlex.quote, given)
    return (
        "there is no prompt, as --choices takes all that follows it. Put the prompt first:"
        f" asteady generate {last} --choices {' '.join(choices) or 'TEXT'}"
    )


def _form(options: argparse.Namespace) -> dict[str, Any]:
    """The form of the answer: a schema or grammar from its file."""
    read = {name: getattr(options, name) for name in ("schema", "grammar")}
    found = {name: read_file(f"--{name}", file) for name, file in read.items() if file is not None}
    return found | {"choices": options.choices, "regex": options.regex}


async def _generate(options: argparse.Namespace, what: dict[str, Any]) -> int:
    async with make_session(
        generation_model=options.model, context_tokens=options.context
    ) as session:
        if session.settings.generation_model == "builtin" and speaks(options):
            print(
                "asteady: the built-in model is only a small demonstration; choose another one with"
                " --model smollm2, --model FILE.gguf or ASTEADY_GENERATION_MODEL (asteady models"
                " list shows more)",
                file=sys.stderr,
            )
        began = perf_counter()
        stream = calls_under(session, options.namespace).stream(
            options.prompt,
            cache=options.cache,
            seed=options.seed,
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            min_p=options.min_p,
            repeat_penalty=options.repeat_penalty,
            stop=options.stop,
            eos_string=options.eos_string,
            **what,
        )
        async with progress(options, activities_of(session), "computing the answer") as line:
            async with stream:
                first_s = await _show(stream, options, line) - began
            took_s = perf_counter() - began
        answer = stream.answer
        calls = () if options.json else answer.tool_calls
        if options.json or (not answer.text.endswith("\n") and (answer.text or not calls)):
            _write("\n")
        for call in calls:
            shown = {"id": call.id, "name": call.name, "arguments": call.arguments}
            _write(as_json(shown) + "\n")
        if speaks(options):
            print(f"asteady: {summary(answer, first_s, took_s)}", file=sys.stderr)
        elif answer.finish_reason == "length" and not (options.json or options.quiet):
            print(
                f"asteady: stopped after {answer.completion_tokens} tokens"
                " (--max-new-tokens, or the context)",
                file=sys.stderr,
            )
    return 0


async def _show(stream: Stream, options: argparse.Namespace, line: Progress) -> float:
    """Print the chunks as they come, with `no_stream` or `json` the answer when it is complete.

    The line of progress vanishes before anything is printed. Returns when the first chunk came.
    """
    terminal = sys.stderr.isatty()
    shown = (terminal if options.reasoning is None else options.reasoning) and not options.json
    dim, plain = ("\x1b[2m", "\x1b[0m") if terminal and _may_dim() else ("", "")
    open_line = printed = False
    first = 0.0
    try:
        async for event in stream.events():
            first = first or perf_counter()
            if isinstance(event, ReasoningChunk):
                if shown:
                    line.hide()
                    _write(event.text if open_line else dim + event.text, sys.stderr)
                    open_line = True
                continue
            if open_line:
                _write(f"{plain}\n\n", sys.stderr)
                open_line = False
            if isinstance(event, ToolCall):
                continue  # printed at the end
            if not (options.no_stream or options.json):
                line.hide()
                _write(event.text)
                printed = True
    except BaseException:
        if printed and sys.stdout.isatty():
            _write("\n")  # what is said next has a line of its own
        raise
    finally:
        if open_line:
            _write(f"{plain}\n", sys.stderr)
    line.hide()
    if options.json:
        _write(as_json(stream.answer.as_dict()))
    elif options.no_stream:
        _write(stream.answer.text)
    return first or perf_counter()


def _may_dim() -> bool:
    # The terminal of old Windows shows the sequences themselves.
    return not os.environ.get("NO_COLOR") and not is_dumb() and os.name != "nt"


def _write(text: str, to: TextIO | None = None) -> None:
    stream = sys.stdout if to is None else to
    stream.write(text)
    stream.flush()


def run_embed(options: argparse.Namespace) -> int:
    texts = options.text or read_standard_input("at least one text").splitlines()
    if not texts:
        raise InvalidRequestError("standard input is empty: give at least one line of text")
    texts = [text_argument(f"text {number}", text) for number, text in enumerate(texts, 1)]
    target = None if options.npy is None else Path(options.npy).absolute()
    if target is not None and not target.parent.is_dir():
        raise InvalidRequestError(
            f"--npy {options.npy}: the directory {target.parent} does not exist"
        )
    if target is not None and target.is_dir():
        raise InvalidRequestError(f"--npy {options.npy}: it is a directory; give a file in it")
    matrix = asyncio.run(_embed(texts, options))
    if target is not None:
        _save(matrix, target)
    if options.json:
        print(json.dumps([[float(x) for x in row] for row in matrix]))
    elif target is None:
        for row in matrix:
            print(" ".join(format(float(x), ".9g") for x in row))
    return 0


async def _embed(texts: list[str], options: argparse.Namespace) -> Vector:
    async with make_session(
        embedding_model=options.model, context_tokens=options.context
    ) as session:
        calls = calls_under(session, options.namespace)
        async with progress(options, activities_of(session), "computing the vectors"):
            return await calls.embed(
                texts,
                cache=options.cache,
                truncate=options.truncate,
                mode=options.mode,
                dimensions=options.dimensions,
            )


def _save(matrix: Vector, target: Path) -> None:
    import numpy as np

    with atomic_write(target, private=False) as file:
        np.save(file, matrix)
