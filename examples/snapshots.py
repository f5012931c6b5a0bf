"""Take snapshots of the caches, compare them, and move answers to another cache by file."""

import asyncio
import tempfile
from pathlib import Path

import asteady
from asteady.operate import CachePersistenceManager


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        entries = Path(directory, "entries.db")
        async with asteady.Session() as session:
            persistence = CachePersistenceManager(session, backup_dir=Path(directory, "backups"))
            await persistence.save_cache_state("before")
            for n in range(5):
                await session.generate(f"Test prompt {n}", max_new_tokens=4)
            await persistence.save_cache_state("after")

            analysis = await persistence.analyze_cache_history()
            trend = analysis["generation_cache_trend"]
            print(f"{analysis['total_snapshots']} snapshots: {trend['size_change']:+} entries")

            done = await persistence.export_entries(entries)
            print(f"exported {done.generation} completions in {done.size_bytes:,} bytes")

        async with asteady.Session(cache_dir=Path(directory, "another_machine")) as session:
            merged = await session.cache.import_entries(entries)
            print(f"imported {merged['generation'].added}")
            text = await session.generate("Test prompt 3", max_new_tokens=4, cache="only")
            print("answered without computing:", text.strip())


asyncio.run(main())
