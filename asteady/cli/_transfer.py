"""``asteady cache export|import``"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import TYPE_CHECKING

import attrs

from asteady._base.errors import InvalidRequestError
from asteady._base.settings import MEBIBYTE, Settings
from asteady._cache.manager import CacheManager
from asteady._cache.store.api import Exported, Merged
from asteady._cache.transfer.transfer import MAX_FILE_BYTES
from asteady.cli._found import found_manager

if TYPE_CHECKING:
    from asteady.cli._arguments import Commands


def add_actions(actions: Commands) -> None:
    export_ = actions.add_parser(
        "export",
        help="write all entries to a file",
        description="Write all entries with their answers to one file, also while the cache is in"
        " use. The file is readable only by you.",
    )
    export_.add_argument("file", metavar="FILE", help="an older export is replaced")
    export_.set_defaults(run=export)
    import_ = actions.add_parser(
        "import",
        help="take over the entries of such a file",
        description="Take over the entries of an exported file. What is here already stays; when"
        " the cache cannot hold all, the least valuable entries go. A file that is damaged or not"
        " what an export is changes nothing.",
    )
    import_.add_argument("file", metavar="FILE")
    import_.add_argument(
        "--max-size-mb",
        type=float,
        default=MAX_FILE_BYTES / MEBIBYTE,
        metavar="MB",
        help="refuse a larger file; default: %(default)g",
    )
    import_.set_defaults(run=run_import)
    for action in (export_, import_):
        action.add_argument("--json", action="store_true", help="print as JSON")


def export(options: argparse.Namespace) -> int:
    async def exported() -> Exported:
        async with found_manager() as manager:
            return await manager.export_entries(options.file)

    done = asyncio.run(exported())
    if options.json:
        print(json.dumps({**attrs.asdict(done), "path": str(done.path)}))
    else:
        print(
            f"wrote {done.generation:,} generation and {done.embedding:,} embedding entries to"
            f" {done.path} ({done.size_bytes:,} bytes)"
        )
    return 0


def run_import(options: argparse.Namespace) -> int:
    if not options.max_size_mb > 0:
        raise InvalidRequestError(
            f"--max-size-mb {options.max_size_mb} is not allowed: more than 0 megabytes"
        )

    async def imported() -> dict[str, Merged]:
        # It fills the cache, to the sizes that are set.
        manager = CacheManager(Settings.from_environment())
        await manager.open()
        try:
            return await manager.import_entries(
                options.file, max_file_bytes=int(options.max_size_mb * MEBIBYTE)
            )
        finally:
            await manager.aclose()

    done = asyncio.run(imported())
    if options.json:
        print(json.dumps({kind: attrs.asdict(merged) for kind, merged in done.items()}))
        return 0
    for kind, merged in done.items():
        print(
            f"{kind}: {merged.entries:,} in the file, {merged.added:,} added,"
            f" {merged.known:,} known, {merged.declined:,} worth less than what is here,"
            f" {merged.oversized:,} too large; {merged.evicted:,} evicted"
        )
    return 0
