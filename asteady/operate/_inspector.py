"""Traces of calls, and explanations of why an entry is kept or the next to be evicted."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio.to_thread
import attrs

from asteady._base import validation
from asteady._base.errors import InvalidRequestError
from asteady._base.files import AnyPath, write_atomically
from asteady._base.options import shows_options_of
from asteady._base.public import public
from asteady._base.requests import DEFAULT_SEED, Completion, GenerateRequest, Key, Kind
from asteady._base.validation import shorten
from asteady._cache.cache import Cache
from asteady._cache.store.api import Entry
from asteady._cache.store.stored_request import prompt_of, quoted
from asteady._session.observe import Observed, Outcome
from asteady._session.pipeline import CacheMode
from asteady._session.session import Session
from asteady.operate._resolve_session import opened_session, session_now

_PREVIEW_CHARACTERS = 100
_PROMPT_CHARACTERS = 1000


@public
@attrs.frozen(kw_only=True)
class CallTrace:
    """One call.

    `prompt` has at most 1000 characters and `result_preview` 100. `cost_s` is how long computing
    the answer took, in this call or an earlier one; None without an answer. The cache sizes are in
    entries; None for calls recorded by `CacheInspector.tracing`.
    """

    at: datetime
    kind: Kind
    prompt: str
    seed: int | None
    model: str
    key: Key | None
    outcome: Outcome
    duration_s: float
    cost_s: float | None
    cache_size_before: int | None = None
    cache_size_after: int | None = None
    result_preview: str
    error: str | None = None

    @property
    def cache_hit(self) -> bool:
        """Whether the cache had the answer."""
        return self.outcome in ("memory", "disk", "shared")

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        record = attrs.asdict(self)
        return {**record, "at": self.at.isoformat(), "cache_hit": self.cache_hit}


@public
@attrs.frozen(kw_only=True)
class CacheAnalysis:
    """Sums over the traced calls. Rates are in percent; times of no calls are 0.

    `hit_rate` is the share of hits in hits and misses. `time_saved_s` is how much longer callers
    would have waited if each hit had been computed; `compute_saved_s` is the computing time saved
    by hits and coalesced calls.
    """

    total_generations: int
    cache_hits: int
    cache_misses: int
    coalesced: int
    failed: int
    hit_rate: float
    avg_hit_time_s: float
    avg_miss_time_s: float
    time_saved_s: float
    compute_saved_s: float


@public
@attrs.frozen(kw_only=True)
class Explanation:
    """The rank of an entry in the order of eviction; its `str` is a text for people.

    `goes_after` is the number of entries that would be evicted before it; `share_of_budget` is
    from 0 to 1, of the scarcer of the two budgets; `full` says whether the next new entry evicts
    one. If there is no such entry, `cache` and `entry` are None and the numbers 0.
    """

    key: Key
    cache: str | None = None
    entry: Entry | None = None
    goes_after: int = 0
    entries: int = 0
    share_of_budget: float = 0.0
    full: bool = False
    text: str

    def __str__(self) -> str:
        return self.text


@public
class CacheInspector:
    """Traces calls and explains entries of a session; default: the loop's default session.

    The last `limit` traces are in memory. It needs no closing.
    """

    def __init__(self, session: Session | None = None, *, limit: int = 1000) -> None:
        self._given = session
        self._log: deque[CallTrace] = deque(maxlen=validation.whole_number("limit", limit, 1))

    def __repr__(self) -> str:
        return f"<CacheInspector: {len(self._log)} traces>"

    @property
    def generation_log(self) -> list[CallTrace]:
        """The traces, oldest first."""
        return list(self._log)

    def clear(self) -> None:
        """Remove all traces."""
        self._log.clear()

    @shows_options_of(GenerateRequest.of)
    async def trace_generation(
        self,
        prompt: str | None = None,
        seed: int = DEFAULT_SEED,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        **options: Any,
    ) -> CallTrace:
        """`Session.generate`, traced, with the number of entries before and after.

        The outcome is that of this very call; the sizes are changed by concurrent calls too.
        Options and exceptions are those of `generate`; a call that raises is traced as well.
        """
        session = await opened_session(self._given)
        before, after = await _size(session), None
        seen: list[Observed] = []
        try:
            with session.observe(seen.append):
                await session.generate(prompt, model=model, cache=cache, seed=seed, **options)
            after = await _size(session)
        finally:
            # An invalid request is refused before it becomes a call.
            if seen:
                self._log.append(_trace(seen[0], before, after))
        return self._log[-1]

    @contextmanager
    def tracing(self, *, everywhere: bool = True) -> Iterator[None]:
        """Trace every call of the session that ends within the block, embeddings included.

        With ``everywhere=False`` only calls of this task and of tasks started in the block.
        """
        with session_now(self._given).observe(self.observe, everywhere=everywhere):
            yield

    def observe(self, call: Observed) -> None:
        """Trace one call, as `tracing` does with each."""
        self._log.append(_trace(call))

    def analyze(self) -> CacheAnalysis:
        """Counts, rates and times over the traces."""
        log = list(self._log)
        hits = [trace for trace in log if trace.cache_hit]
        misses = [trace for trace in log if trace.outcome == "computed"]
        coalesced = [trace for trace in log if trace.outcome == "coalesced"]
        return CacheAnalysis(
            total_generations=len(log),
            cache_hits=len(hits),
            cache_misses=len(misses),
            coalesced=len(coalesced),
            failed=len(log) - len(hits) - len(misses) - len(coalesced),
            hit_rate=100 * len(hits) / max(1, len(hits) + len(misses)),
            avg_hit_time_s=sum(t.duration_s for t in hits) / max(1, len(hits)),
            avg_miss_time_s=sum(t.duration_s for t in misses) / max(1, len(misses)),
            time_saved_s=sum(max(0.0, (t.cost_s or 0.0) - t.duration_s) for t in hits),
            compute_saved_s=sum(t.cost_s or 0.0 for t in [*hits, *coalesced]),
        )

    analyze_cache_behavior = analyze

    async def export(self, path: AnyPath) -> Path:
        """Write the traces as JSON Lines if the name ends in ``.jsonl``, else as a JSON list.

        The file is written atomically and readable only by its owner: it has prompts in it.

        Raises:
            OSError: the file cannot be written.
        """
        records = [trace.as_dict() for trace in self._log]
        if os.fspath(path).endswith(".jsonl"):
            text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        else:
            text = json.dumps(records, ensure_ascii=False, indent=2) + "\n"
        return await anyio.to_thread.run_sync(write_atomically, path, text.encode())

    export_trace_log = export

    async def explain(self, key: Key) -> Explanation:
        """Why the entry with this key is kept or the next to be evicted.

        Takes the beginning of a key too, such as ``asteady cache list`` prints. Reads the list of
        all entries. Uses reach the store within a second, so the rank may lag by as much.

        Raises:
            InvalidRequestError: the key is no str, or several keys begin with it.
            SessionError: the session is not open yet, or is closed.
            StoreError: the store cannot be read.
        """
        validation.text("key", key)
        session = await opened_session(self._given)
        found: list[tuple[Cache[Any], list[Entry], int]] = []
        for cache in (session.cache.generation, session.cache.embedding):
            entries = await cache.entries(-1, "priority")
            for rank, entry in enumerate(entries):
                if entry.key == key:  # it may be the beginning of others, if keys are made up
                    return await _explanation(cache, entries, rank)
                if entry.key.startswith(key.lower()):
                    found.append((cache, entries, rank))
        if len(found) > 1:
            raise InvalidRequestError(f"{len(found)} entries have keys that begin with {key!r}")
        if found:
            return await _explanation(*found[0])
        text = f"No cache has an entry {key[:12]}...: it was never stored, was evicted or removed."
        return Explanation(key=key, text=text)


async def _size(session: Session) -> int:
    return int((await session.cache.generation.statistics())["size"])


def _trace(call: Observed, before: int | None = None, after: int | None = None) -> CallTrace:
    request, answer = call.request, call.answer
    kind: Kind = "generation" if isinstance(request, GenerateRequest) else "embedding"
    prompt = prompt_of(request)
    if isinstance(request, GenerateRequest) and request.prompt is None:
        prompt = "\n".join(map(str, request.messages))
    if isinstance(answer, Completion):
        # An answer may have ended in its reasoning, or have calls of tools only.
        calls = " ".join(f"{call.name}({call.arguments_json})" for call in answer.tool_calls)
        preview = shorten(answer.text or calls or answer.reasoning or "", _PREVIEW_CHARACTERS)
    else:
        preview = "" if answer is None else f"vector of {len(answer.vector)}"
    return CallTrace(
        at=datetime.now(UTC),
        kind=kind,
        prompt=shorten(prompt, _PROMPT_CHARACTERS),
        seed=request.seed if isinstance(request, GenerateRequest) else None,
        model=call.model,
        key=call.key,
        outcome=call.outcome,
        duration_s=call.duration_s,
        cost_s=None if answer is None else answer.cost_s,
        cache_size_before=before,
        cache_size_after=after,
        result_preview=preview,
        error=None if call.error is None else f"{type(call.error).__name__}: {call.error}",
    )


async def _explanation(cache: Cache[Any], entries: list[Entry], rank: int) -> Explanation:
    """Explain ``entries[rank]``; the entries are in the order of priority, highest first."""
    entry, goes_after = entries[rank], len(entries) - 1 - rank
    stats = await cache.statistics()
    capacity, max_bytes = stats["capacity"], stats["max_size_bytes"]
    share = max(entry.size_bytes / max_bytes, 1 / capacity)
    size_bytes = stats["total_size_bytes"]
    mean_bytes = size_bytes / max(1, len(entries))
    full = len(entries) >= capacity or size_bytes + mean_bytes > max_bytes
    if not full:
        fate = "so nothing is evicted."
    elif goes_after == 0:
        fate = "and this one is the next to be evicted."
    else:
        fate = f"and {goes_after} would be evicted before this one."
    policy = {
        "tide": (
            f"Its priority is {entry.priority:.4g}; the tide, which rises with evictions, is at"
            f" {stats['tide_level']:.4g}. Each use raises the priority by the entry's cost over its"
            " share of the budget."
        ),
        "lru": "The entry that was used longest ago is evicted first.",
        "lfu": "The entry with the fewest uses is evicted first; among equals, the oldest use.",
    }.get(str(stats["policy"]), "")
    idle = duration_text(max(0.0, time.time() - entry.last_used_s))
    uses = "once" if entry.touches == 1 else f"{entry.touches} times"
    lines = [
        *([] if entry.prompt is None else [f"It is the answer to {quoted(entry.prompt)}."]),
        f"The {cache.kind} cache has {len(entries)} of {capacity} entries, {fate}",
        f"It was used {uses}, the last time {idle} ago; it took {entry.cost_s:.3g} s to compute,"
        f" and takes {entry.size_bytes:,} bytes, {100 * share:.2g} % of the scarcer budget.",
        policy,
    ]
    return Explanation(
        key=entry.key,
        cache=cache.kind,
        entry=entry,
        goes_after=goes_after,
        entries=len(entries),
        share_of_budget=share,
        full=full,
        text="\n".join(lines),
    )


def duration_text(seconds: float) -> str:
    """In the largest unit of which there are at least two."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
