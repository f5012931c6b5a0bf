"""Verification of the cache: a sample of the stored answers, computed again and compared.

Entries that keep their request (`keep_requests_bytes`) are computed without the cache and compared
byte for byte. Nothing is stored, touched, or counted as a lookup.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict

import attrs

from asteady._base.errors import PromptTooLongError, StoreError
from asteady._base.public import public
from asteady._base.requests import KINDS, Completion, Embedding, Key, Kind
from asteady._base.tasks import map_concurrently
from asteady._base.validation import one_of, shorten, whole_number
from asteady._cache.cache import Cache
from asteady._cache.store.api import Entry
from asteady._cache.store.stored_request import Request, arguments
from asteady._session.generation import context_of
from asteady._session.pipeline import Call
from asteady._session.session import Session
from asteady.operate._verify import first

Answer: TypeAlias = Completion | Embedding

# Why an entry was not compared.
NOT_KEPT = "keeps no request"
OTHER_FINGERPRINT = "of another model, build or CPU"
NOT_DRAWN = "not in the sample"
GONE = "removed meanwhile"
DAMAGED = "damaged"
WRONG_REQUEST = "keeps the request of another key"
TOO_LONG = "its request does not fit the model"


@public
@attrs.frozen(kw_only=True)
class VerifyCacheDifference:
    """An entry that differs from what is computed for its request.

    `request` has the arguments of `Session.generate` or `Session.embed`; `where` is the first
    difference, as stored and as computed.
    """

    key: Key
    request: Mapping[str, Any]
    where: str


@public
@attrs.frozen(kw_only=True)
class VerifyCacheReport:
    """The result of `verify_cache`.

    Of `entries` in the cache, `same` were computed again without a difference, `differences` with
    one; `skipped` counts the others by the reason.
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
        """The number of entries that were computed again."""
        return self.same + len(self.differences)

    @property
    def ok(self) -> bool:
        """Whether no entry differs; True also when none could be compared, see `remedy`."""
        return not self.differences

    @property
    def remedy(self) -> str | None:
        """If nothing was compared: why, and what to do."""
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


@public
class VerifyCacheOptions(TypedDict, total=False):
    """The options of `verify_cache`."""

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


@public
async def verify_cache(
    session: Session,
    *,
    model: str | None = None,
    kind: Kind = "generation",
    requests: int = 24,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> VerifyCacheReport:
    """Compute a sample of the stored answers again, and compare every byte.

    Only entries that keep their request, see `Settings.keep_requests_bytes`, and that are of this
    model, build and CPU. The cache is left as it is. The arguments are those of
    `VerifyCacheOptions`; see docs/determinism.md.

    Raises:
        InvalidRequestError: an argument is not allowed.
        StoreError: the cache is disabled, or cannot be read.
        ModelError, SessionError, QueueFullError: as in `Session.generate`.
    """
    context = context_of(session)
    session.check_open()
    one_of("kind", kind, KINDS)
    whole_number("requests", requests, 1)
    whole_number("seed", seed, 0)
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
            skipped[OTHER_FINGERPRINT] += 1
        else:
            keys.append(entry.key)
    # The same seed draws the same entries, however they were used since.
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
            skipped[WRONG_REQUEST] += 1
        else:
            sample.append((key, request, reading.answer))
    return sample


def difference(stored: Any, computed: Any) -> str | None:
    """The first difference between two answers of one kind, described; None if there is none."""
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
            return f"{name}: stored {shorten(repr(one), 80)}, computed {shorten(repr(another), 80)}"
    return None


def report_as_json(report: VerifyCacheReport) -> str:
    """The report as a JSON object."""
    record = attrs.asdict(report)
    record.update(ok=report.ok, compared=report.compared, remedy=report.remedy)
    return json.dumps(record, indent=2, ensure_ascii=False)
