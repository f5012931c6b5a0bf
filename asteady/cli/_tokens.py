"""``asteady tokens``"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Any

from asteady._base.requests import Kind
from asteady._session.session import Session
from asteady.cli._common import Commands, add_json, add_messages, add_model, prompt_arguments


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "tokens",
        help="count the tokens of a prompt or a text",
        description="Print how many tokens a prompt has, with those of the model's chat template:"
        " the prompt_tokens of its answer. Loads the model's vocabulary, and no weights.",
    )
    parser.add_argument("prompt", nargs="?", help="the prompt; default, or -: standard input")
    add_messages(parser)
    parser.add_argument(
        "--embed", action="store_true", help="count for the embedding model: a text, no prompt"
    )
    parser.add_argument("--show", action="store_true", help="print the id and text of each token")
    add_model(parser, context=False)
    add_json(parser)
    parser.set_defaults(run=run_tokens)


def run_tokens(options: argparse.Namespace) -> int:
    what = prompt_arguments(options)
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
            print(f"{token['id']:>7}  {json.dumps(token['text'], ensure_ascii=False)}")
        print(f"{len(tokens):,} {'token' if len(tokens) == 1 else 'tokens'}", file=sys.stderr)
    else:
        print(len(tokens))
    return 0


async def _tokens(options: argparse.Namespace, what: dict[str, Any]) -> list[tuple[int, bytes]]:
    kind: Kind = "embedding" if options.embed else "generation"
    async with Session(disable_cache=True) as session:
        return await session.tokenize(options.prompt, model=options.model, kind=kind, **what)
