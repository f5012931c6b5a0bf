"""``asteady embed``"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
from pathlib import Path

from asteady import InvalidRequestError, Session
from asteady.cli._input import read_standard_input


def run(options: argparse.Namespace) -> int:
    texts = options.text or read_standard_input("at least one text").splitlines()
    if not texts:
        raise InvalidRequestError("standard input is empty: give at least one line of text")
    if options.npy is not None and not Path(options.npy).absolute().parent.is_dir():
        raise InvalidRequestError(f"--npy {options.npy}: there is no such directory")
    return asyncio.run(_run(texts, options))


async def _run(texts: list[str], options: argparse.Namespace) -> int:
    async with Session(embedding_model=options.model) as session:
        matrix = await session.embed(texts, cache=options.cache, truncate=options.truncate)
    if options.npy is not None:
        import numpy as np

        target = Path(options.npy)
        # Whole or not at all: a reader never finds half an array under the final name.
        with tempfile.NamedTemporaryFile(
            dir=target.absolute().parent, suffix=".npy", delete=False
        ) as file:
            np.save(file, matrix)
        os.replace(file.name, target)
    if options.json:
        print(json.dumps([[float(x) for x in row] for row in matrix]))
    elif options.npy is None:
        for row in matrix:
            print(" ".join(format(float(x), ".9g") for x in row))
    return 0
