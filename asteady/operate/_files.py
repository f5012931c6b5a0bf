"""Writing a file whole or not at all: no reader finds half of it under its name."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_whole(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write the file and put it in place at once; only its owner can read it. Blocks.

    Raises:
        OSError: it cannot be written; the error names `path`.
    """
    target = Path(path).absolute()
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as exc:
        # Not the name that was made up for it.
        exc.filename = os.fspath(path)
        raise
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise
    return target
