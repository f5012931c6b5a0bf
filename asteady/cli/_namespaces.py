"""``asteady cache namespaces``, and the option ``--namespace`` of other commands"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import TYPE_CHECKING

import attrs

from asteady.cli._found import found_manager

if TYPE_CHECKING:
    from asteady._cache.store.api import NamespaceSize
    from asteady._session.calls import Calls
    from asteady._session.session import Session
    from asteady.cli._arguments import Commands


def add_action(actions: Commands) -> None:
    parser = actions.add_parser(
        "namespaces",
        help="print the namespaces and what each of them holds",
        description="Print each namespace that holds entries itself: how many, and their bytes. An"
        " entry that several hold counts in each of them.",
    )
    parser.add_argument(
        "path", nargs="?", metavar="PATH", help="only this namespace and those below it"
    )
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.set_defaults(run=run)


def add_option(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--namespace", metavar="PATH", help=what)


def asked_under(session: Session, path: str | None) -> Calls:
    """The session, or the namespace of it that was named."""
    return session if path is None else session.namespace(path)


def run(options: argparse.Namespace) -> int:
    found = asyncio.run(_namespaces(options.path))
    if options.json:
        print(json.dumps({path: attrs.asdict(size) for path, size in found.items()}, indent=2))
        return 0
    width = max([len("namespace"), *map(len, found)])
    print(f"{'namespace':<{width}} {'generation':>10} {'embedding':>10} {'bytes':>14}")
    for path, size in found.items():
        print(
            f"{path:<{width}} {size.generation.entries:>10,} {size.embedding.entries:>10,}"
            f" {size.size_bytes:>14,}"
        )
    return 0


async def _namespaces(path: str | None) -> dict[str, NamespaceSize]:
    async with found_manager() as manager:
        return await manager.namespaces(path)
