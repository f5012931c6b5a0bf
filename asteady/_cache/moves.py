"""Push and pull: entries of a store go to the shared tier, or come from there.

Both go through the entries in pages, so that any number of them needs little memory, and leave
alone what is there already: one that failed in the middle goes on from there when it is called
again.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from time import time
from typing import TYPE_CHECKING, Any

import attrs

from asteady._base.errors import InvalidRequestError
from asteady._base.requests import Key, Kind, is_below, namespace_path
from asteady._base.tasks import run_aside
from asteady._cache.packed import pack, unpack
from asteady._cache.store.api import Incoming, Merge, Merged, Moved, Store, Tag, Tagged
from asteady._cache.store.codec import DamagedError, checksum
from asteady._cache.store.transaction import ROW_BYTES, entry_bytes, tag_bytes
from asteady._cache.transfer import CODECS, MAX_ROW_BYTES

if TYPE_CHECKING:
    from asteady._cache.redis import RedisTier

log = logging.getLogger("asteady")

# Entries without their answers, and bytes of answers, that are in memory at a time. More of them
# would hold up the event loop, where redis-py reads its replies.
PAGE = 200
GROUP_BYTES = 1024 * 1024
_KEY = re.compile(r"[0-9a-f]{64}")


@attrs.frozen(kw_only=True)
class Move:
    """What is moved: the entries of a kind, or only those of a namespace and all below it, or of
    one engine. `moved` is called with what has been done, after each page."""

    kind: Kind
    store: Store[Any]
    tier: RedisTier
    namespace: str | None
    fingerprint: str | None
    moved: Callable[[Moved], None]


async def push(move: Move) -> Moved:
    """See `CacheManager.push_entries`."""
    store, tier = move.store, move.tier
    done, after = Moved(), ""
    while page := await store.page(after, PAGE, move.namespace, move.fingerprint):
        after = page[-1].key
        entries = {tier.name(move.kind, entry.fingerprint, entry.key): entry for entry in page}
        absent: dict[str, Tagged] = {}
        for (name, entry), tags in zip(
            entries.items(), await tier.tags(list(entries)), strict=True
        ):
            if tags is None:
                absent[name] = entry
                continue
            for path in set(entry.namespaces) - tags:
                await tier.tag(name, path)
        added = await _push_absent(move, absent)
        done = _sum(done, added, Moved(entries=len(page), known=len(page) - len(absent)))
        move.moved(done)
    return done


async def _push_absent(move: Move, entries: Mapping[str, Tagged]) -> Moved:
    added = damaged = size_bytes = 0
    group: dict[str, tuple[bytes, tuple[str, ...]]] = {}
    for name, entry in entries.items():
        reading = await move.store.read(entry.key)
        if reading.answer is None:
            # Else it was evicted meanwhile.
            damaged += reading.damaged
            continue
        try:
            value = pack(CODECS[move.kind], entry.key, reading.answer, reading.answer.cost_s)
        except ValueError as exc:
            log.warning("an entry of the %s cache is not pushed: %s", move.kind, exc)
            damaged += 1
            continue
        group[name] = value, entry.namespaces
        size_bytes += len(value)
        if size_bytes >= GROUP_BYTES:
            added += await _put(move.tier, group)
            group, size_bytes = {}, 0
    added += await _put(move.tier, group)
    return Moved(added=added, damaged=damaged)


async def _put(tier: RedisTier, group: Mapping[str, tuple[bytes, tuple[str, ...]]]) -> int:
    if group:
        await tier.put_all(group)
    return len(group)


async def pull(move: Move) -> Moved:
    """See `CacheManager.pull_entries`."""
    done = Moved()
    async for names in move.tier.names(move.kind, fingerprint=move.fingerprint):
        for start in range(0, len(names), PAGE):
            done = _sum(done, await _pull_page(move, names[start : start + PAGE]))
            move.moved(done)
    return done


async def _pull_page(move: Move, names: Sequence[str]) -> Moved:
    page: dict[str, Tagged] = {}
    for name, tags in zip(names, await move.tier.tags(names), strict=True):
        key = name.rpartition(":")[2]
        if tags is None or not _KEY.fullmatch(key):
            continue
        paths = _paths(tags)
        if move.namespace is None or any(is_below(path, move.namespace) for path in paths):
            page[name] = Tagged(key, paths)
    _, missing = await move.store.missing([entry.key for entry in page.values()])
    absent = {name: entry for name, entry in page.items() if entry.key in missing}
    known = [entry for name, entry in page.items() if name not in absent]
    # All of them in one commit.
    tagging = [move.store.submit(Tag(each.key, path)) for each in known for path in each.namespaces]
    for each in tagging:
        await each
    added = await _pull_absent(move, absent)
    return _sum(added, Moved(entries=len(page), known=len(known)))


async def _pull_absent(move: Move, entries: Mapping[str, Tagged]) -> Moved:
    """Add those for which the budgets have room; what is here stays."""
    done = Moved()
    sizes = await move.tier.sizes(list(entries)) if entries else []
    for group in _groups(dict(zip(entries, sizes, strict=True))):
        totals = await move.store.totals()
        room_entries = max(0, totals["max_entries"] - totals["entries"])
        room_bytes = totals["max_bytes"] - totals["size_bytes"]
        # A row takes more than the packed value.
        names = [name for name, size in group.items() if size + ROW_BYTES <= room_bytes]
        names = [name for name in names if group[name] <= MAX_ROW_BYTES][:room_entries]
        values = await move.tier.get_all(names) if names else []
        found = dict(zip(names, values, strict=True))
        arrived = await run_aside(partial(_unpacked, move, entries, found, room_bytes))
        added = known = 0
        if arrived.incoming:
            merge = Merge(arrived.incoming, arrived.rows.__getitem__)
            merged: Merged = await move.store.submit(merge)
            # A session may have stored it meanwhile.
            added, known = merged.added, merged.known
        full = len(group) - arrived.damaged - arrived.gone - added - known
        numbers = Moved(added=added, known=known, full=full, damaged=arrived.damaged)
        done = _sum(done, numbers, Moved(entries=-arrived.gone))
    return done


@attrs.define
class _Arrived:
    """Entries and their rows by key; how many values are damaged, or of no account."""

    incoming: list[Incoming] = attrs.field(factory=list)
    rows: dict[Key, tuple[Any, ...]] = attrs.field(factory=dict)
    damaged: int = 0
    gone: int = 0


def _unpacked(
    move: Move, entries: Mapping[str, Tagged], values: Mapping[str, bytes | None], room_bytes: int
) -> _Arrived:
    """What these values are, as many as there is room for. Takes a while."""
    codec, arrived = CODECS[move.kind], _Arrived()
    for name, value in values.items():
        if value is None:  # it was evicted meanwhile
            arrived.gone += 1
            continue
        key = entries[name].key
        try:
            answer = unpack(codec, key, value)
        except DamagedError as exc:
            log.warning("a value in the shared cache is not pulled: %s", exc)
            arrived.damaged += 1
            continue
        if move.tier.name(move.kind, answer.fingerprint, key) != name:
            # Shared among all CPUs, under a key that no machine has in its store.
            arrived.gone += 1
            continue
        # The shared tier has no requests.
        row = (*codec.encode(answer), None)
        entry = _incoming(entries[name], answer.cost_s, row)
        if entry.size_bytes <= room_bytes:
            room_bytes -= entry.size_bytes
            arrived.incoming.append(entry)
            arrived.rows[key] = (checksum(key, answer.cost_s, row[:-1]), *row)
    return arrived


def _incoming(entry: Tagged, cost_s: float, row: Sequence[Any]) -> Incoming:
    """The entry, as new as one that is computed now; `row` are its values and its request."""
    now_s = time()
    return Incoming(
        key=entry.key,
        size_bytes=entry_bytes(entry.key, row) + tag_bytes(entry.namespaces),
        cost_s=cost_s,
        touches=1,
        relative_priority=1.0,
        created_s=now_s,
        used_s=now_s,
        namespaces=entry.namespaces,
    )


def _groups(sizes: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """The names in groups, with the sizes of what is read together."""
    group: dict[str, int] = {}
    size_bytes = 0
    for name, size in sizes.items():
        if group and size_bytes + size > GROUP_BYTES:
            yield group
            group, size_bytes = {}, 0
        group[name] = size
        size_bytes += size
    if group:
        yield group


def _paths(tags: Collection[str]) -> tuple[str, ...]:
    """The namespaces, without what is none."""
    paths = []
    for tag in sorted(tags):
        try:
            paths.append(namespace_path(tag))
        except InvalidRequestError as exc:
            log.warning("a namespace in the shared cache is left out: %s", exc)
    return tuple(paths)


def _sum(*parts: Moved) -> Moved:
    names = attrs.fields_dict(Moved)
    return Moved(**{name: sum(getattr(part, name) for part in parts) for name in names})
