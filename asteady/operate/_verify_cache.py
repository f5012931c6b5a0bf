"""Proof that what is stored is what would be computed: a sample of entries, computed again.

Entries that keep their request (`keep_requests_bytes`) are computed past the cache and compared,
byte for byte, with what is stored. Nothing is stored, touched, or counted as a look-up.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

import attrs

from asteady._base.errors import InvalidRequestError, PromptTooLongError, StoreError
from asteady._base.requests import Completion, Embedding, Key, Kind
from asteady._base.tasks import map_concurrently
from asteady._cache.store.api import Entry
from asteady._cache.store.stored_request import Request, arguments
from asteady._session.generation import context_of
from asteady._session.pipeline import Call
from asteady.operate._verify_requests import first

if TYPE_CHECKING:
    from asteady._cache.cache import Cache
    from asteady._session.session import Session

Answer: TypeAlias = Completion | Embedding

# Why an entry was not compared.
NOT_KEPT = "keeps no request"
ELSEWHERE = "of another model, build or CPU"
NOT_DRAWN = "not in the sample"
GONE = "went meanwhile"
DAMAGED = "damaged"
NOT_ITS_OWN = "keeps a request of another key"
TOO_LONG = "its request does not fit the model"


@attrs.frozen(kw_only=True)
class VerifyCacheDifference:
    """An entry that is not what is computed for its request.

    `request` are the arguments of `Session.generate` or `Session.embed`; `where` says what differs
    first, and shows it as it is stored and as it was computed.
    """

    key: Key
    request: Mapping[str, Any]
    where: str


@attrs.frozen(kw_only=True)
class VerifyCacheReport:
    """What `verify_cache` found.

    Of `entries` in the cache, `same` were computed again and are the same, `differences` are not;
    `skipped` counts the others by the reason.
    """

    model: str
    kind: Kind
    fingerprint: str
    entries: int
    same: int
    differences: tuple[VerifyCacheDifference, ...]
    skipped: Mapping[str, int]
    keep_requests_bytes: int

    @property
    def compared(self) -> int:
        """How many entries were computed again."""
        return self.same + len(self.differences)

    @property
    def ok(self) -> bool:
        """Whether no entry differs; also when none could be compared, see `remedy`."""
        return not self.differences

    @property
    def remedy(self) -> str | None:
        """Where nothing was compared: why, and what to do."""
        if self.compared:
            return None
        if not self.entries:
            return f"the {self.kind} cache is empty: there is nothing to compare"
        if self.skipped.get(NOT_KEPT) == self.entries:
            return (
                f"none of the {self.entries} entries keeps its request, so none can be computed"
                " again: set ASTEADY_KEEP_REQUESTS_BYTES to more than your prompts have bytes (it"
                f" is {self.keep_requests_bytes}), and ask again with cache='refresh'"
            )
        return (
            f"none of the {self.entries} entries could be compared; those that keep their request"
            f" are not of {self.model} as it is computed here, or cannot be read"
        )


class VerifyCacheOptions(TypedDict, total=False):
    """The options of `Session.verify_cache`."""

    model: str | None
    """Whose entries to verify; default: the session's model."""
    kind: Kind
    """Which cache to verify: "generation" (the default) or "embedding"."""
    requests: int
    """How many entries to compute again at most. Default: 24."""
    seed: int
    """Which of them: the same seed draws the same ones from the same cache. Default: 0."""
    progress: Callable[[int], None] | None
    """Called after each comparison with the number so far."""


async def verify_cache(
    session: Session,
    *,
    model: str | None = None,
    kind: Kind = "generation",
    requests: int = 24,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> VerifyCacheReport:
    """Compute stored answers again, and compare; see `Session.verify_cache`.

    Raises:
        InvalidRequestError: an argument is not allowed.
        StoreError: the cache is disabled, or cannot be read.
        ModelError, SessionError, QueueFullError: as in `Session.generate`.
    """
    context = context_of(session)
    session.check_open()
    if kind not in ("generation", "embedding"):
        raise InvalidRequestError(f'kind={kind!r} is not allowed: "generation" or "embedding"')
    if isinstance(requests, bool) or not isinstance(requests, int) or requests < 1:
        raise InvalidRequestError(f"requests={requests!r} is not allowed: a whole number from 1")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InvalidRequestError(f"seed={seed!r} is not allowed: a whole number")
    if session.settings.disable_cache:
        raise StoreError("the cache is disabled (disable_cache), so there is nothing to compare")
    reference = context.model(kind, model)
    fingerprint = await context.models.fingerprint(kind, reference)
    cache: Cache[Any] = (
        context.cache.generation if kind == "generation" else context.cache.embedding
    )
    entries = await cache.entries(-1, "last_used")
    skipped: Counter[str] = Counter()
    sample = await _draw(cache, _eligible(entries, fingerprint, skipped), requests, seed, skipped)
    pipeline: Any = context.generation if kind == "generation" else context.embedding
    compared = 0

    async def one(drawn: tuple[Key, Request, Answer]) -> VerifyCacheDifference | None:
        nonlocal compared
        key, request, stored = drawn
        try:
            computed = await pipeline.answer(Call(request=request, model=reference, mode="bypass"))
        except PromptTooLongError:
            skipped[TOO_LONG] += 1
            return None
        where = difference(stored, computed)
        compared += 1
        if progress is not None:
            progress(compared)
        if where is None:
            return None
        return VerifyCacheDifference(key=key, request=arguments(request), where=where)

    found: list[VerifyCacheDifference | None] = []
    if sample:
        numbers = (await context.models.pool(kind, reference)).statistics()
        found = await map_concurrently(one, sample, limit=numbers.workers * numbers.width)
    differences = tuple(each for each in found if each is not None)
    return VerifyCacheReport(
        model=reference,
        kind=kind,
        fingerprint=fingerprint,
        entries=len(entries),
        same=compared - len(differences),
        differences=differences,
        skipped=dict(skipped),
        keep_requests_bytes=session.settings.keep_requests_bytes,
    )


def _eligible(entries: Sequence[Entry], fingerprint: str, skipped: Counter[str]) -> list[Key]:
    keys = []
    for entry in entries:
        if entry.prompt is None:
            skipped[NOT_KEPT] += 1
        elif entry.fingerprint != fingerprint:
            skipped[ELSEWHERE] += 1
        else:
            keys.append(entry.key)
    # Uses change their order, and the same seed is to draw the same ones.
    return sorted(keys)


async def _draw(
    cache: Cache[Any], keys: list[Key], count: int, seed: int, skipped: Counter[str]
) -> list[tuple[Key, Request, Answer]]:
    random.Random(seed).shuffle(keys)
    sample: list[tuple[Key, Request, Answer]] = []
    for at, key in enumerate(keys):
        if len(sample) == count:
            skipped[NOT_DRAWN] += len(keys) - at
            break
        # Not `Cache.get`, which would touch the entry.
        reading = await (await cache.ready()).read(key)
        request = await cache.request(key)
        if reading.answer is None:
            skipped[DAMAGED if reading.damaged else GONE] += 1
        elif request is None:
            skipped[NOT_ITS_OWN] += 1
        else:
            sample.append((key, request, reading.answer))
    return sample


def difference(stored: Any, computed: Any) -> str | None:
    """What differs first between two answers of one kind, in words; None if nothing does."""
    names: tuple[str, ...]
    if isinstance(stored, Completion):
        text, other = stored.text.encode(), computed.text.encode()
        at = first(text, other)
        if text != other:
            here = slice(max(0, at - 20), at + 20)
            return f"byte {at} of the text: stored {text[here]!r}, computed {other[here]!r}"
        names = ("chunks", "finish_reason", "prompt_tokens", "completion_tokens", "logprobs")
    else:
        at = first(stored.vector.tobytes(), computed.vector.tobytes()) // 4
        if stored.vector.tobytes() != computed.vector.tobytes():
            shown = [each.vector[at : at + 1].tolist() for each in (stored, computed)]
            return f"component {at} of the vector: stored {shown[0]}, computed {shown[1]}"
        names = ("tokens", "truncated")
    for name in names:
        one, another = getattr(stored, name), getattr(computed, name)
        if one != another:
            return f"{name}: stored {repr(one)[:80]}, computed {repr(another)[:80]}"
    return None


def report_as_json(report: VerifyCacheReport) -> str:
    """The report as a JSON object."""
    record = attrs.asdict(report)
    record.update(ok=report.ok, compared=report.compared, remedy=report.remedy)
    return json.dumps(record, indent=2, ensure_ascii=False)
