from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from asteady import Session
from asteady.testing import FakeEngine
from tests.cli.commands import TEXT
from tests.gguf_files import write_bigram


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path | str]:
    """What the examples name, and a cache with TEXT in it."""
    prompts = tmp_path / "prompts-größe.jsonl"
    prompts.write_text(json.dumps(TEXT) + '\n{"prompt": ""}\n')
    accesses = tmp_path / "accesses"
    accesses.write_text("a\t1\t1\na\t1\t1\nb\t1\t1\n")
    export = tmp_path / "export-größe"
    model = write_bigram(tmp_path / "größe-東京.gguf", ["\n", "Grü", "ße", "€", "😀", "東京"])

    async def use() -> str:
        async with Session(engine=FakeEngine()) as session:
            await session.namespace("größe/東京").generate(TEXT)
            await session.cache.export_entries(export)
            (entry,) = await session.cache.generation.entries()
            return entry.key

    return {
        "FILE": prompts,
        "ACCESSES": accesses,
        "OUT": tmp_path / "out-größe",
        "EXPORT": export,
        "MODEL": model,
        "KEY": asyncio.run(use()),
    }
