from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from asteady import Session
from asteady.testing import FakeEngine
from tests.cli.commands import TEXT
from tests.gguf_files import write_bigram


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path | str]:
    """A cache with TEXT in it and an export of it, and a model."""
    directory = tmp_path_factory.mktemp("made")
    export = directory / "export-größe"
    caches = directory / "caches"

    async def use() -> str:
        async with Session(engine=FakeEngine(), cache_dir=caches) as session:
            await session.namespace("größe/東京").generate(TEXT)
            await session.cache.export_entries(export)
            (entry,) = await session.cache.generation.entries()
            return entry.key

    return {
        "CACHES": caches,
        "EXPORT": export,
        "MODEL": write_bigram(
            directory / "größe-東京.gguf", ["\n", "Grü", "ße", "€", "😀", "東京"]
        ),
        "KEY": asyncio.run(use()),
    }


@pytest.fixture
def files(made: dict[str, Path | str], tmp_path: Path) -> dict[str, Path | str]:
    """What the examples name, and a cache with TEXT in it."""
    shutil.copytree(made["CACHES"], tmp_path / "caches")
    prompts = tmp_path / "prompts-größe.jsonl"
    prompts.write_text(json.dumps(TEXT) + '\n{"prompt": ""}\n')
    accesses = tmp_path / "accesses"
    accesses.write_text("a\t1\t1\na\t1\t1\nb\t1\t1\n")
    return {
        **made,
        "FILE": prompts,
        "ACCESSES": accesses,
        "OUT": tmp_path / "out-größe",
    }
