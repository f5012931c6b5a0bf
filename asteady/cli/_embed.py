"""``asteady embed``"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

from asteady._base.errors import InvalidRequestError
from asteady._base.files import atomic_write
from asteady._base.requests import Vector
from asteady._session.session import Session
from asteady.cli._common import Commands, add_request, calls_under, read_standard_input


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "embed",
        help="embed texts",
        description="Embed each text and print its vector on one line.",
    )
    parser.add_argument("text", nargs="*", help="the texts; default: the lines of standard input")
    parser.add_argument(
        "--npy", metavar="FILE", help="write a float32 array of shape (texts, dimensions)"
    )
    parser.add_argument(
        "--truncate", action="store_true", help="cut texts that are longer than the model's context"
    )
    add_request(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    texts = options.text or read_standard_input("at least one text").splitlines()
    if not texts:
        raise InvalidRequestError("standard input is empty: give at least one line of text")
    target = None if options.npy is None else Path(options.npy).absolute()
    if target is not None and not target.parent.is_dir():
        raise InvalidRequestError(
            f"--npy {options.npy}: the directory {target.parent} does not exist"
        )
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
    async with Session(embedding_model=options.model) as session:
        calls = calls_under(session, options.namespace)
        return await calls.embed(texts, cache=options.cache, truncate=options.truncate)


def _save(matrix: Vector, target: Path) -> None:
    import numpy as np

    with atomic_write(target, private=False) as file:
        np.save(file, matrix)
