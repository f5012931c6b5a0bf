"""``asteady tokens``"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Any, get_args

from asteady._base.errors import InvalidRequestError
from asteady._base.requests import EmbedMode, Kind
from asteady.cli._common import (
    Commands,
    add_json,
    add_messages,
    add_model,
    make_session,
    prompt_arguments,
    read_standard_input,
)
from asteady.cli._output import as_json


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "tokens",
        help="count the tokens of a prompt or a text, or print the text of tokens",
        description="Print how many tokens a prompt has, with those of the model's chat template:"
        " the prompt_tokens of its answer. Loads the model's vocabulary, and no weights.",
        examples=(
            'asteady tokens "How long is this?" --show',
            "asteady tokens --detokenize 12 345",
        ),
    )
    parser.add_argument("prompt", nargs="?", help="the prompt; default, or -: standard input")
    add_messages(parser)
    parser.add_argument(
        "--embed", action="store_true", help="count for the embedding model: a text, no prompt"
    )
    parser.add_argument(
        "--mode",
        choices=get_args(EmbedMode),
        help="with --embed: count the model's instruction for a query or a document too",
    )
    parser.add_argument("--show", action="store_true", help="print the id and text of each token")
    parser.add_argument(
        "--detokenize",
        type=int,
        nargs="*",
        metavar="ID",
        help="the way back: print the text of these tokens; default: ids on standard input",
    )
    add_model(parser, context=False)
    add_json(parser)
    parser.set_defaults(run=run_tokens)


def run_tokens(options: argparse.Namespace) -> int:
    if options.mode is not None and not options.embed:
        raise InvalidRequestError("--mode needs --embed: it is for texts of the embedding model")
    if options.detokenize is not None:
        return _run_detokenize(options)
    what = prompt_arguments(options)
    if options.mode is not None:
        what["mode"] = options.mode
    if options.embed and not what["raw"]:
        del what["raw"]  # no option of embedding
    tokens = asyncio.run(_tokens(options, what))
    # Bytes of a character that several tokens make are shown as in \xf0.
    shown = [
        {"id": token, "text": piece.decode("utf-8", "backslashreplace")} for token, piece in tokens
    ]
    if options.json:
        print(json.dumps({"count": len(tokens), **({"tokens": shown} if options.show else {})}))
    elif options.show:
        for token in shown:
            print(f"{token['id']:>7}  {as_json(token['text'])}")
        print(f"{len(tokens):,} {'token' if len(tokens) == 1 else 'tokens'}", file=sys.stderr)
    else:
        print(len(tokens))
    return 0


def _run_detokenize(options: argparse.Namespace) -> int:
    if options.prompt is not None or options.messages is not None:
        raise InvalidRequestError("--detokenize takes the ids of tokens, and no prompt")
    text = asyncio.run(_text(options, options.detokenize or _read_ids()))
    print(as_json({"text": text}) if options.json else text)
    return 0


def _read_ids() -> list[int]:
    text = read_standard_input("the ids of tokens")
    ids = text.replace(",", " ").split()
    try:
        return [int(each) for each in ids]
    except ValueError as exc:
        raise InvalidRequestError(f"standard input is no list of ids: {exc}") from None


def _kind(options: argparse.Namespace) -> Kind:
    return "embedding" if options.embed else "generation"


async def _text(options: argparse.Namespace, ids: list[int]) -> str:
    async with make_session(disable_cache=True) as session:
        return await session.detokenize(ids, model=options.model, kind=_kind(options))


async def _tokens(options: argparse.Namespace, what: dict[str, Any]) -> list[tuple[int, bytes]]:
    async with make_session(disable_cache=True) as session:
        return await session.tokenize(
            options.prompt, model=options.model, kind=_kind(options), **what
        )
