"""``asteady cache stats|clear|path``"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from asteady._settings import Settings
from asteady.cache._manager import CacheManager
from asteady.cli._arguments import Commands

T = TypeVar("T")


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "cache", help="look at the cache or clear it", description="Look at the cache or clear it."
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    stats_ = actions.add_parser("stats", help="print the statistics")
    stats_.add_argument("--json", action="store_true", help="print them as JSON")
    stats_.set_defaults(run=stats)
    clear_ = actions.add_parser("clear", help="remove all entries")
    clear_.set_defaults(run=clear)
    path_ = actions.add_parser("path", help="print the directory")
    path_.set_defaults(run=path)


def stats(options: argparse.Namespace) -> int:
    caches = _with_manager(lambda manager: manager.get_cache_stats())
    if options.json:
        print(json.dumps(caches, indent=2))
        return 0
    names = list(caches)
    rows = list(caches[names[0]])
    width = max(len(row) for row in rows)
    print(" " * width, *(f"{name:>14}" for name in names))
    for row in rows:
        print(f"{row:<{width}}", *(f"{_shown(caches[name][row]):>14}" for name in names))
    return 0


def clear(options: argparse.Namespace) -> int:
    async def all_caches(manager: CacheManager) -> int:
        return await manager.generation.clear() + await manager.embedding.clear()

    count = _with_manager(all_caches)
    print(f"removed {count} {'entry' if count == 1 else 'entries'}")
    return 0


def path(options: argparse.Namespace) -> int:
    print(Settings.from_environment().cache_dir)
    return 0


def _with_manager(fn: Callable[[CacheManager], Awaitable[T]]) -> T:
    async def run() -> T:
        manager = CacheManager(Settings.from_environment())
        await manager.open()
        try:
            return await fn(manager)
        finally:
            await manager.aclose()

    return asyncio.run(run())


def _shown(value: Any) -> str:
    return (
        f"{value:,.4g}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int)
        else str(value)
    )
