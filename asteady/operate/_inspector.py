"""What happened to each call, and why an entry is kept or next to go."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import anyio.to_thread
import attrs

from asteady._base.checks import check_count
from asteady._base.errors import InvalidRequestError
from asteady._base.files import write_atomically
from asteady._base.requests import DEFAULT_SEED, Completion, GenerateRequest, Key
from asteady._session.observe import Observed, Outcome
from asteady._session.pipeline import CacheMode
from asteady._session.session import Session
from asteady.operate._explain import Explanation, explain
from asteady.operate._which import opened_session, session_now

_PREVIEW = 100
_PROMPT = 1000


@attrs.frozen(kw_only=True)
class CallTrace:
    """One call. Sizes are entries in the store; None where nobody could wait to read them.

    `prompt` is cut after 1000 characters and `result_preview` after 100. `cost_s` is what computing
    the answer took, now or when it was computed; None without an answer.
    """

    at: datetime
    kind: Literal["generation", "embedding"]
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
        return self.outcome in ("memory", "disk")

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        record = attrs.asdict(self)
        return {**record, "at": self.at.isoformat(), "cache_hit": self.cache_hit}


@attrs.frozen(kw_only=True)
class CacheAnalysis:
    """What the traced calls say in sum. Rates are in percent; times of no calls are 0.

    `hit_rate` is hits of hits and misses. `time_saved_s` is what callers would have waited longer
    for the hits, had each been computed anew; `compute_saved_s` is what was not computed, for hits
    and coalesced calls.
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


class CacheInspector:
    """Traces calls, and explains entries, of a session; default: the loop's default session.

    It keeps the last `limit` traces in memory, and holds nothing that must be closed.
    """

    def __init__(self, session: Session | None = None, *, limit: int = 1000) -> None:
        check_count("limit", limit)
        self._given = session
        self._log: deque[CallTrace] = deque(maxlen=limit)

    def __repr__(self) -> str:
        return f"<CacheInspector: {len(self._log)} traces>"

    @property
    def generation_log(self) -> list[CallTrace]:
        """The traces, oldest first."""
        return list(self._log)

    def clear(self) -> None:
        """Forget the traces."""
        self._log.clear()

    async def trace_generation(
        self,
        prompt: str | None = None,
        seed: int = DEFAULT_SEED,
        *,
        model: str | None = None,
        cache: CacheMode = "use",
        **options: Any,
    ) -> CallTrace:
        """`Session.generate`, traced, with the number of entries before and after; options as
        there.

        What it met is this call's own, whatever runs beside it; the sizes are those of the moments
        before and after. Raises what `generate` raises; the trace is kept all the same.
        """
        session = await opened_session(self._given)
        before = await _size(session)
        seen: list[Observed] = []
        try:
            with session.observe(seen.append):
                await session.generate(prompt, model=model, cache=cache, seed=seed, **options)
        finally:
            # A request that is refused never becomes a call.
            if seen:
                traced = attrs.evolve(_trace(seen[0]), cache_size_before=before)
                self._log.append(traced)
        traced = attrs.evolve(traced, cache_size_after=await _size(session))
        # Others may have been traced meanwhile; this one may have left the log.
        for index in range(len(self._log) - 1, -1, -1):
            if self._log[index].at == traced.at and self._log[index].key == traced.key:
                self._log[index] = traced
                break
        return traced

    @contextmanager
    def tracing(self, *, everywhere: bool = True) -> Iterator[None]:
        """Trace every call of the session that ends within the block, embeddings too.

        With ``everywhere=False`` only those of this task and of tasks started in the block.
        """
        with session_now(self._given).observe(self.observe, everywhere=everywhere):
            yield

    def observe(self, call: Observed) -> None:
        """Trace one call; what `tracing` does with each."""
        self._log.append(_trace(call))

    def analyze(self) -> CacheAnalysis:
        """Sum the traces up."""
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

    async def export(self, path: str | os.PathLike[str]) -> Path:
        """Write the traces: as JSON Lines if the name ends in ``.jsonl``, else as a JSON list.

        The file appears whole, and only its owner can read it, for it has prompts in it.
        """
        records = [trace.as_dict() for trace in self._log]
        if os.fspath(path).endswith(".jsonl"):
            lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            text = "".join(lines)
        else:
            text = json.dumps(records, ensure_ascii=False, indent=2) + "\n"
        return await anyio.to_thread.run_sync(write_atomically, path, text.encode())

    export_trace_log = export

    async def explain(self, key: Key) -> Explanation:
        """Why the entry with this key is kept or next to go; keys are in traces and entries.

        The beginning of a key will do, such as ``asteady cache list`` prints.

        Raises:
            InvalidRequestError: the key is no str, or several keys begin so.
            SessionError: the session is not open yet, or is closed.
            StoreError: the store cannot be read.
        """
        if not isinstance(key, str):
            raise InvalidRequestError(
                f"key={key!r} is not allowed: a str, such as the `key` of a trace or an entry"
            )
        return await explain(await opened_session(self._given), key)


async def _size(session: Session) -> int:
    return int((await session.cache.generation.statistics())["size"])


def _trace(call: Observed) -> CallTrace:
    request, answer = call.request, call.answer
    if isinstance(request, GenerateRequest):
        prompt = request.prompt
        if prompt is None:
            prompt = "\n".join(f"{role}: {content}" for role, content in request.messages)
    else:
        prompt = request.text
    if isinstance(answer, Completion):
        preview = _cut(answer.text, _PREVIEW)
    else:
        preview = "" if answer is None else f"vector of {len(answer.vector)}"
    return CallTrace(
        at=datetime.now(UTC),
        kind="generation" if isinstance(request, GenerateRequest) else "embedding",
        prompt=_cut(prompt, _PROMPT),
        seed=request.seed if isinstance(request, GenerateRequest) else None,
        model=call.model,
        key=call.key,
        outcome=call.outcome,
        duration_s=call.duration_s,
        cost_s=None if answer is None else answer.cost_s,
        result_preview=preview,
        error=None if call.error is None else f"{type(call.error).__name__}: {call.error}",
    )


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "..."
