"""Pulls models, in this process and by the command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from asteady._engine.models.hub import HubModel, pull_model

REPO = "someone/small-GGUF"
REFERENCE = f"hf:{REPO}/small-q8_0.gguf"


def pull(reference: str, caches: Path) -> HubModel:
    return pull_model(reference, caches)


def blobs(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "hf").rglob("blobs/*")]


def cli(*arguments: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "asteady", "models", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **more},
    )


def run(*arguments: str, **more: str) -> tuple[int | None, str, str]:
    with cli(*arguments, **more) as process:
        out, err = process.communicate(timeout=120)
    return process.returncode, out, err
