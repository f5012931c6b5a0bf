"""``asteady cache stats|list|get|delete|clear|path``, and the actions of other files"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import attrs

from asteady._base.errors import InvalidRequestError
from asteady._base.requests import Completion
from asteady._base.settings import Settings
from asteady._cache.cache import Cache
from asteady._cache.manager import CacheManager
from asteady._cache.store.api import ORDERS
from asteady._cache.store.stored_request import prompt_of, shown
from asteady.cli import _namespaces, _size, _transfer
from asteady.cli._arguments import Commands
from asteady.cli._found import found_manager

T = TypeVar("T")

# What people look at first. `--json` has everything.
_ROWS = {
    "entries": "size",
    "of at most": "capacity",
    "bytes": "total_size_bytes",
    "of at most ": "max_size_bytes",
    "hits": "all_hits",
    "misses": "all_misses",
    "coalesced": "all_coalesced",
    "evictions": "all_evictions",
    "ghosts": "ghosts",
    "policy": "policy",
    "phi": "phi",
    "tide level": "tide_level",
}


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "cache", help="look at the cache or clear it", description="Look at the cache or clear it."
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    stats_ = actions.add_parser(
        "stats", help="print the statistics, summed over all processes and runs"
    )
    stats_.set_defaults(run=stats)
    list_ = actions.add_parser("list", help="print the entries, the most valuable first")
    list_.add_argument("--limit", type=int, default=20, metavar="N", help="default: %(default)s")
    list_.add_argument(
        "--order-by", choices=tuple(ORDERS), default="priority", help="default: %(default)s"
    )
    _namespaces.add_option(list_, "only those that this namespace holds, or one below it")
    list_.set_defaults(run=list_entries)
    for action in (stats_, list_):
        action.add_argument("--json", action="store_true", help="print as JSON")
    get_ = actions.add_parser("get", help="print the answer of an entry")
    get_.set_defaults(run=get)
    delete_ = actions.add_parser("delete", help="remove an entry")
    delete_.set_defaults(run=delete)
    for action in (get_, delete_):
        action.add_argument("key", help="its key, or as much of the beginning as is unique")
    clear_ = actions.add_parser("clear", help="remove all entries, or those of a namespace")
    _namespaces.add_option(
        clear_, "only those that this namespace and all below it hold, and no other one"
    )
    clear_.set_defaults(run=clear)
    path_ = actions.add_parser("path", help="print the directory")
    path_.set_defaults(run=path)
    _namespaces.add_action(actions)
    _size.add_action(actions)
    _transfer.add_actions(actions)


def stats(options: argparse.Namespace) -> int:
    async def told(manager: CacheManager) -> tuple[dict[str, dict[str, Any]], int]:
        return await manager.get_cache_stats(), len(await manager.namespaces())

    caches, namespaces = _with_manager(told)
    if options.json:
        print(json.dumps(caches, indent=2))
        return 0
    print(" " * 12, *(f"{name:>14}" for name in caches))
    for label, name in _ROWS.items():
        print(f"{label:<12}", *(f"{_shown(cache[name]):>14}" for cache in caches.values()))
    rates = (_rate(cache["all_hits"], cache["all_misses"]) for cache in caches.values())
    print(f"{'hit rate':<12}", *(f"{rate:>14}" for rate in rates))
    saved_s = sum(cache["all_seconds_saved"] for cache in caches.values())
    print(f"\nthe caches have saved {_duration(saved_s)} of computing")
    if namespaces:
        print(f"namespaces: {namespaces:,} (`asteady cache namespaces` prints them)")
    return 0


def list_entries(options: argparse.Namespace) -> int:
    async def entries(manager: CacheManager) -> list[dict[str, Any]]:
        found = []
        for name, cache in _caches(manager).items():
            for entry in await cache.entries(
                options.limit, options.order_by, namespace=options.namespace
            ):
                found.append({"cache": name, **attrs.asdict(entry)})
        return found

    rows = _with_manager(entries)
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    head = f"{'key':<16} {'cache':<10} {'bytes':>9} {'cost':>9} {'touches':>7} {'last used':<19}"
    print(head, "prompt")
    for row in rows:
        used = datetime.datetime.fromtimestamp(row["last_used_s"]).isoformat(" ", "seconds")
        prompt = "-" if row["prompt"] is None else shown(row["prompt"], 40)
        print(
            f"{row['key'][:16]} {row['cache']:<10} {row['size_bytes']:>9,}"
            f" {row['cost_s']:>7.3f} s {row['touches']:>7} {used} {prompt}"
        )
    return 0


def get(options: argparse.Namespace) -> int:
    async def answer(manager: CacheManager) -> Any:
        cache, key = await _find(manager, options.key)
        return await cache.peek(key), await cache.request(key)

    found, request = _with_manager(answer)
    if request is not None:
        print(f"asteady: the answer to {shown(prompt_of(request))}", file=sys.stderr)
    if isinstance(found, Completion):
        print(found.text)
    else:
        print(" ".join(format(float(x), ".9g") for x in found.vector))
    return 0


def delete(options: argparse.Namespace) -> int:
    async def deleted(manager: CacheManager) -> str:
        cache, key = await _find(manager, options.key)
        await cache.delete(key)
        return key

    print(f"removed {_with_manager(deleted)}")
    return 0


def clear(options: argparse.Namespace) -> int:
    async def all_caches(manager: CacheManager) -> int:
        if options.namespace is not None:
            return await manager.clear_namespace(options.namespace)
        return await manager.generation.clear() + await manager.embedding.clear()

    count = _with_manager(all_caches)
    print(f"removed {count} {'entry' if count == 1 else 'entries'}")
    return 0


def path(options: argparse.Namespace) -> int:
    print(os.fspath(Settings.from_environment().cache_dir))
    return 0


def _caches(manager: CacheManager) -> dict[str, Cache[Any]]:
    return {"generation": manager.generation, "embedding": manager.embedding}


async def _find(manager: CacheManager, prefix: str) -> tuple[Cache[Any], str]:
    """The one entry whose key begins so."""
    found = [
        (cache, key)
        for cache in _caches(manager).values()
        for key in await cache.keys()
        if key.startswith(prefix.lower())
    ]
    if len(found) != 1:
        which = f"{len(found)} entries have keys that begin"
        which = which if found else "no entry has a key that begins"
        raise InvalidRequestError(f"{which} with {prefix!r}; `asteady cache list` prints them")
    return found[0]


def _with_manager(fn: Callable[[CacheManager], Awaitable[T]]) -> T:
    async def run() -> T:
        async with found_manager() as manager:
            return await fn(manager)

    return asyncio.run(run())


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _rate(hits: int, misses: int) -> str:
    return f"{hits / (hits + misses):.1%}" if hits + misses else "-"


def _duration(seconds: float) -> str:
    minutes, rest_s = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest_s:.0f} s" if minutes else f"{rest_s:.3g} s"
