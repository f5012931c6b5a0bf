"""Write SHA256SUMS beside the built-in models: asteady refuses a model file with another digest.

    python -m asteady.models.training.digests

`build.py` does this too. Run it by hand after putting a model file in place by other means, and
commit SHA256SUMS together with the file. ``sha256sum -c SHA256SUMS`` reads it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

MODELS = Path(__file__).resolve().parents[1]


def write_digests(folder: Path = MODELS) -> Path:
    """Write the digests of the folder's .gguf files; the file is replaced in one step."""
    target = folder / "SHA256SUMS"
    lines = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
        for file in sorted(folder.glob("*.gguf"))
    ]
    fresh = target.with_suffix(".new")
    fresh.write_text("".join(lines), encoding="ascii")
    os.replace(fresh, target)
    return target


if __name__ == "__main__":
    print(write_digests())
