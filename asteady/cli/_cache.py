"""``asteady cache stats|list|get|delete|clear|path|namespaces|size|export|import|push|pull``"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import math
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import attrs

from asteady._base.errors import InvalidRequestError, StoreError
from asteady._base.requests import KINDS, Completion, Kind
from asteady._base.settings import MEBIBYTE, Settings
from asteady._cache.store.api import MAX_FILE_BYTES, ORDERS, Merged, Moved
from asteady._cache.store.stored_request import prompt_of, quoted
from asteady.cli._common import Commands, add_json, add_namespace, opened_manager, settings_as_found
from asteady.cli._curve import BLOCKS, draw_curve
from asteady.cli._fingerprint import fingerprints_of
from asteady.cli._output import Column, can_print, columns_of, print_path, print_table
from asteady.cli._progress import add_quiet, progress
from asteady.cli._stats import print_stats, shared_line
from asteady.cli._watch import DEFAULT_INTERVAL_S, watch

if TYPE_CHECKING:
    from asteady._cache.cache import Cache
    from asteady._cache.manager import CacheManager


T = TypeVar("T")


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "cache",
        help="look at the stored answers, move or remove them",
        description="Look at the stored answers, move or remove them.",
        examples=("asteady cache stats",),
    )
    actions = parser.add_commands("actions", "ACTION")
    stats_ = actions.add_parser(
        "stats",
        help="print the statistics of all processes, past and present",
        description="Print how many answers are stored, what they saved, and how full the caches"
        " are: of all processes, past and present.",
        examples=("asteady cache stats --watch 5",),
    )
    stats_.add_argument(
        "--watch",
        type=float,
        nargs="?",
        const=DEFAULT_INTERVAL_S,
        metavar="SECONDS",
        help="print them again and again, until Ctrl-C; every %(const)g seconds, or as given",
    )
    stats_.set_defaults(run=stats)
    list_ = actions.add_parser(
        "list",
        help="print the entries, the most valuable first",
        description="Print the entries of the generation and the embedding cache, the most valuable"
        " first.",
        examples=("asteady cache list --order-by cost --limit 5",),
    )
    list_.add_argument(
        "--limit",
        type=int,
        default=20,
        metavar="N",
        help="the most entries of each kind; -1: all; default: %(default)s",
    )
    list_.add_argument(
        "--order-by",
        choices=tuple(ORDERS),
        default="priority",
        help="what those have most of that come first: priority is the worth by which entries are"
        " evicted, cost and saved are seconds of computing; default: %(default)s",
    )
    add_namespace(list_, "only entries of this namespace or of one below it")
    list_.set_defaults(run=list_entries)
    for action in (stats_, list_):
        add_json(action)
    get_ = actions.add_parser(
        "get",
        help="print the answer of an entry",
        description="Print the answer of an entry, and on standard error what it answers.",
        examples=("asteady cache get 3f8a",),
    )
    get_.set_defaults(run=get)
    delete_ = actions.add_parser(
        "delete",
        help="remove an entry",
        description="Remove an entry, so that its answer is computed again when it is asked for.",
        examples=("asteady cache delete 3f8a",),
    )
    delete_.set_defaults(run=delete)
    for action in (get_, delete_):
        action.add_argument(
            "key", help="the key of the entry, or a unique beginning of it; see asteady cache list"
        )
    clear_ = actions.add_parser(
        "clear",
        help="remove all entries, or those of a namespace",
        description="Remove all entries of both caches, or those of a namespace.",
        examples=("asteady cache clear --namespace emails",),
    )
    add_namespace(clear_, "only entries whose namespaces are all this one or below it")
    clear_.set_defaults(run=clear)
    for action in (delete_, clear_):
        action.add_argument(
            "--local",
            action="store_true",
            help="leave the shared cache as it is; default: remove them there too, for all"
            " machines, if ASTEADY_SHARED_CACHE is set",
        )
    path_ = actions.add_parser(
        "path",
        help="print the cache directory",
        description="Print the directory with the databases of the caches; ASTEADY_CACHE_DIR sets"
        " another one.",
        examples=("asteady cache path",),
    )
    path_.set_defaults(run=path)
    _add_namespaces(actions)
    _add_size(actions)
    _add_transfer(actions)
    _add_moves(actions)


def _add_namespaces(actions: Commands) -> None:
    parser = actions.add_parser(
        "namespaces",
        help="print the namespaces and their sizes",
        description="Print each namespace that has entries, their number and their size in bytes."
        " An entry with several namespaces counts in each of them.",
        examples=("asteady cache namespaces emails",),
    )
    parser.add_argument(
        "path", nargs="?", metavar="PATH", help="only this namespace and those below it"
    )
    add_json(parser)
    parser.set_defaults(run=namespaces)


def _add_size(actions: Commands) -> None:
    parser = actions.add_parser(
        "size",
        help="print what other cache sizes would save",
        description="Print what each cache size would save, computed from the accesses that a"
        " CacheOptimizer recorded or from a file.",
        examples=("asteady cache size --accesses accesses.tsv --plot curve.svg",),
    )
    parser.add_argument(
        "--kind",
        choices=KINDS,
        default="generation",
        help="which cache; default: %(default)s",
    )
    parser.add_argument(
        "--accesses",
        metavar="FILE",
        help="tab-separated lines of key, bytes and seconds, plain or gzipped",
    )
    parser.add_argument(
        "--target",
        type=float,
        default=0.95,
        metavar="SHARE",
        help="recommend the size that saves this share of the best possible; default: %(default)s",
    )
    parser.add_argument(
        "--by",
        choices=("seconds", "hits"),
        default="seconds",
        help="what is saved: seconds of computing, or requests that are hits; default: %(default)s",
    )
    parser.add_argument(
        "--plot", metavar="FILE", help="draw the curve into a .png, .svg or .pdf file"
    )
    add_json(parser, "print the recommendation as JSON")
    parser.set_defaults(run=size)


def _add_transfer(actions: Commands) -> None:
    export_ = actions.add_parser(
        "export",
        help="write all entries to a file",
        description="Write all entries with their answers to one file. The cache may be in use."
        " Only you can read the file.",
        examples=("asteady cache export answers.export",),
    )
    export_.add_argument(
        "file", metavar="FILE", help="the file to write; an earlier export is replaced"
    )
    export_.set_defaults(run=export)
    import_ = actions.add_parser(
        "import",
        help="add the entries of an exported file",
        description="Add the entries of an exported file. Existing entries are not replaced. If"
        " the cache is too small for all, the least valuable entries are evicted. A file that is"
        " damaged or not an export changes nothing.",
        examples=("asteady cache import answers.export",),
    )
    import_.add_argument(
        "file", metavar="FILE", help="what asteady cache export wrote, here or on another machine"
    )
    import_.add_argument(
        "--max-size-mb",
        type=float,
        default=MAX_FILE_BYTES / MEBIBYTE,
        metavar="MB",
        help="refuse a larger file; default: %(default)g",
    )
    import_.set_defaults(run=run_import)
    for action in (export_, import_):
        add_json(action)


def _add_moves(actions: Commands) -> None:
    push_ = actions.add_parser(
        "push",
        help="copy entries to a shared cache",
        description="Copy entries to a shared cache on Redis or Valkey. What is there already"
        " stays. Both may be in use. If it fails in the middle, run it again: it goes on from"
        " there.",
        examples=("asteady cache push redis://host:6379/0",),
    )
    push_.set_defaults(run=push)
    pull_ = actions.add_parser(
        "pull",
        help="copy entries from a shared cache",
        description="Copy entries from a shared cache on Redis or Valkey, as many as the cache has"
        " room for. What is here already stays. Both may be in use. If it fails in the middle, run"
        " it again: it goes on from there.",
        examples=("asteady cache pull redis://host:6379/0 --model smollm2",),
    )
    pull_.set_defaults(run=pull)
    for action in (push_, pull_):
        action.add_argument(
            "url",
            nargs="?",
            metavar="URL",
            help="the shared cache, as redis://host:6379/0; default: ASTEADY_SHARED_CACHE",
        )
        action.add_argument("--kind", choices=KINDS, help="only entries of this kind")
        add_namespace(action, "only entries of this namespace or of one below it")
        action.add_argument(
            "--model",
            metavar="MODEL",
            help="only answers that this machine would compute with this model: of the same"
            " fingerprint, see asteady fingerprint",
        )
        add_json(action)
        add_quiet(action)


def stats(options: argparse.Namespace) -> int:
    if options.watch is not None:
        return watch(options.watch, as_json=options.json)

    async def read(manager: CacheManager) -> tuple[dict[str, dict[str, Any]], int, Any]:
        try:
            shared: Any = await manager.shared_statistics()
        except StoreError as exc:  # what is here is shown all the same
            shared = {"error": str(exc)}
        return await manager.get_cache_stats(), len(await manager.namespaces()), shared

    caches, namespaces, shared = _with_manager(read)
    if options.json:
        print(json.dumps(caches if shared is None else {**caches, "shared": shared}, indent=2))
        return 0
    print_stats(caches)
    if shared is not None:
        print(shared_line(shared))
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
    print_table(
        (
            Column(title="key"),
            Column(title="cache", spare=2),
            Column(title="bytes", right=True, spare=3),
            Column(title="cost", right=True, spare=4),
            Column(title="touches", right=True, spare=5),
            Column(title="last used", spare=1),
            Column(title="prompt", wraps=True),
        ),
        [
            (
                row["key"][:16],
                row["cache"],
                f"{row['size_bytes']:,}",
                f"{row['cost_s']:.3f} s",
                row["touches"],
                datetime.datetime.fromtimestamp(row["last_used_s"]).isoformat(" ", "seconds"),
                "-" if row["prompt"] is None else quoted(row["prompt"], 40),
            )
            for row in rows
        ],
    )
    return 0


def get(options: argparse.Namespace) -> int:
    async def answer(manager: CacheManager) -> Any:
        cache, key = await _find(manager, options.key)
        return await cache.peek(key), await cache.request(key)

    found, request = _with_manager(answer)
    if request is not None:
        print(f"asteady: the answer to {quoted(prompt_of(request))}", file=sys.stderr)
    if isinstance(found, Completion):
        if found.reasoning is not None:
            print(f"asteady: its reasoning: {found.reasoning}", file=sys.stderr)
        if found.text or not found.tool_calls:
            print(found.text)
        for call in found.tool_calls:
            print(f"{call.name}({call.arguments_json})")
    else:
        print(" ".join(format(float(x), ".9g") for x in found.vector))
    return 0


def delete(options: argparse.Namespace) -> int:
    async def deleted(manager: CacheManager) -> str:
        if len(options.key) == 64 and not options.local:
            # A whole key, whose entry may be in the shared cache only.
            caches = _caches(manager).values()
            if any([await cache.delete(options.key) for cache in caches]):
                return str(options.key)
        cache, key = await _find(manager, options.key)
        await cache.delete(key, shared=not options.local)
        return key

    print(f"removed {_with_manager(deleted)}")
    return 0


def clear(options: argparse.Namespace) -> int:
    shared = False

    async def all_caches(manager: CacheManager) -> int:
        nonlocal shared
        shared = manager.generation.shared is not None and not options.local
        if options.namespace is not None:
            return await manager.clear_namespace(options.namespace, shared=not options.local)
        # Both of this machine first, as the shared cache may fail.
        generation = await manager.generation.clear(shared=False)
        embedding = await manager.embedding.clear(shared=False)
        if not options.local:
            await manager.clear_all_caches()
        return generation + embedding

    count = _with_manager(all_caches, check=False)  # a full disk may keep them from being opened
    entries = f"{count} {'entry' if count == 1 else 'entries'}"
    print(f"removed {entries}{' here, and those of the shared cache' if shared else ''}")
    return 0


def namespaces(options: argparse.Namespace) -> int:
    found = _with_manager(lambda manager: manager.namespaces(options.path))
    if options.json:
        print(json.dumps({path: attrs.asdict(size) for path, size in found.items()}, indent=2))
        return 0
    print_table(
        (
            Column(title="namespace"),
            Column(title="generation", right=True),
            Column(title="embedding", right=True),
            Column(title="bytes", right=True, spare=1),
        ),
        [
            (
                path,
                f"{size.generation.entries:,}",
                f"{size.embedding.entries:,}",
                f"{size.size_bytes:,}",
            )
            for path, size in found.items()
        ],
    )
    return 0


def size(options: argparse.Namespace) -> int:
    # Imported here, so that other commands start faster.
    from asteady.operate._benchmark import read_accesses
    from asteady.operate._plots import plot_sizing, sizing_table
    from asteady.operate._sizing import CacheOptimizer, state_path

    settings = Settings.from_environment()
    optimizer = CacheOptimizer(cache_type=options.kind, settings=settings)
    if options.accesses is not None:
        for access in read_accesses(options.accesses):
            optimizer.record(access)
    else:
        optimizer.load(state_path(settings, options.kind))
    found = optimizer.recommend(options.target, by=options.by)
    if not found.accesses:
        raise InvalidRequestError(
            f"no accesses to the {options.kind} cache are recorded: attach a CacheOptimizer in the"
            " program (docs/operate/sizing.md), or give --accesses FILE"
        )
    if options.plot is not None:
        plot_sizing(optimizer, found, options.plot)
    if options.json:
        print(json.dumps(attrs.asdict(found)))
        return 0
    if sys.stdout.isatty() and found.entries:
        lines = draw_curve(
            optimizer.curve(), found, columns_of(sys.stdout), can_print(BLOCKS), options.by
        )
        print("\n".join(lines) + "\n")
    elif not sys.stdout.isatty():
        print(sizing_table(optimizer, found))
    print(found)
    return 0


def export(options: argparse.Namespace) -> int:
    done = _with_manager(lambda manager: manager.export_entries(options.file))
    if options.json:
        print(json.dumps({**attrs.asdict(done), "path": str(done.path)}))
    else:
        print(
            f"wrote {done.generation:,} generation and {done.embedding:,} embedding entries to"
            f" {done.path} ({done.size_bytes:,} bytes)"
        )
    return 0


def run_import(options: argparse.Namespace) -> int:
    if not 0 < options.max_size_mb < math.inf:
        raise InvalidRequestError(
            f"--max-size-mb {options.max_size_mb:g} is not allowed: it is a number above 0"
        )

    async def imported() -> dict[str, Merged]:
        # With the sizes in the settings, not the stored ones: an import may fill a larger cache.
        async with opened_manager(Settings.from_environment()) as manager:
            return await manager.import_entries(
                options.file, max_file_bytes=int(options.max_size_mb * MEBIBYTE)
            )

    done = asyncio.run(imported())
    if options.json:
        print(json.dumps({kind: attrs.asdict(merged) for kind, merged in done.items()}))
        return 0
    for kind, merged in done.items():
        print(
            f"{kind}: {merged.entries:,} in the file, {merged.added:,} added,"
            f" {merged.known:,} already present, {merged.declined:,} not valuable enough,"
            f" {merged.oversized:,} too large; {merged.evicted:,} evicted"
        )
    return 0


def push(options: argparse.Namespace) -> int:
    # With the stored sizes, as nothing is stored here.
    done = asyncio.run(_moved(options, settings_as_found(), "push"))
    if options.json:
        print(json.dumps({kind: attrs.asdict(moved) for kind, moved in done.items()}))
        return 0
    for kind, moved in done.items():
        print(
            f"{kind}: {moved.entries:,} here, {moved.added:,} added, {moved.known:,} already there,"
            f" {moved.damaged:,} damaged"
        )
    return 0


def pull(options: argparse.Namespace) -> int:
    # With the sizes in the settings, as for an import.
    done = asyncio.run(_moved(options, Settings.from_environment(), "pull"))
    if options.json:
        print(json.dumps({kind: attrs.asdict(moved) for kind, moved in done.items()}))
        return 0
    for kind, moved in done.items():
        print(
            f"{kind}: {moved.entries:,} there, {moved.added:,} added, {moved.known:,} already here,"
            f" {moved.full:,} without room, {moved.damaged:,} damaged"
        )
    return 0


async def _moved(
    options: argparse.Namespace, settings: Settings, how: Literal["push", "pull"]
) -> dict[Kind, Moved]:
    selected: list[tuple[Kind | None, str | None]] = [(options.kind, None)]
    if options.model is not None:
        selected = [*(await fingerprints_of(options)).items()]
    done: dict[Kind, Moved] = {}
    async with (
        opened_manager(settings) as manager,
        progress(options, lambda: (), f"{how}ing entries") as line,
    ):
        move, total = manager.pull_entries, 0
        if how == "push":
            move = manager.push_entries
            if options.namespace is None and options.model is None:
                kinds = KINDS if options.kind is None else (options.kind,)
                numbers = await manager.get_cache_stats()
                total = sum(numbers[kind]["size"] for kind in kinds)
        for kind, fingerprint in selected:
            done |= await move(
                options.url,
                kind=kind,
                namespace=options.namespace,
                fingerprint=fingerprint,
                progress=lambda done: line.count(f"{how}ing entries", done, total),
            )
    return done


def path(options: argparse.Namespace) -> int:
    print_path(Settings.from_environment().cache_dir)
    return 0


def _caches(manager: CacheManager) -> dict[str, Cache[Any]]:
    return {"generation": manager.generation, "embedding": manager.embedding}


async def _find(manager: CacheManager, prefix: str) -> tuple[Cache[Any], str]:
    """The cache and the key of the only entry whose key begins with `prefix`."""
    found = [
        (cache, key)
        for cache in _caches(manager).values()
        for key in await cache.keys()
        if key.startswith(prefix.lower())
    ]
    if len(found) != 1:
        count = (
            f"{len(found)} entries have keys that begin"
            if found
            else "no entry has a key that begins"
        )
        raise InvalidRequestError(f"{count} with {prefix!r}; `asteady cache list` prints them")
    return found[0]


def _with_manager(fn: Callable[[CacheManager], Awaitable[T]], *, check: bool = True) -> T:
    async def run() -> T:
        async with opened_manager(settings_as_found(), check=check) as manager:
            return await fn(manager)

    return asyncio.run(run())
