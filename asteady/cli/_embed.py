"""``asteady embed``"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from asteady._base.errors import InvalidRequestError
from asteady._session.session import Session
from asteady.cli._arguments import Commands, add_common
from asteady.cli._input import read_standard_input
from asteady.cli._namespaces import asked_under

if TYPE_CHECKING:
    from asteady._base.requests import Vector


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "embed",
        help="embed texts",
        description="Embed each text; one line of numbers for each.",
    )
    parser.add_argument(
        "text", nargs="*", help="the texts; without any, the lines of standard input"
    )
    parser.add_argument("--npy", metavar="FILE", help="write a float32 array (texts, dimensions)")
    parser.add_argument(
        "--truncate", action="store_true", help="cut text longer than the model's context"
    )
    add_common(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    texts = options.text or read_standard_input("at least one text").splitlines()
    if not texts:
        raise InvalidRequestError("standard input is empty: give at least one line of text")
    target = None if options.npy is None else Path(options.npy).absolute()
    if target is not None and not target.parent.is_dir():
        raise InvalidRequestError(f"--npy {options.npy}: there is no directory {target.parent}")
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
        asking = asked_under(session, options.namespace)
        return await asking.embed(texts, cache=options.cache, truncate=options.truncate)


def _save(matrix: Vector, target: Path) -> None:
    """Write an .npy file whole or not at all: no reader finds half an array under its name."""
    import numpy as np

    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("xb") as file:
            np.save(file, matrix)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
