"""The path of a request, from a validated call to the cache, the flight and the pool.

memory tier          a hit returns without suspending
flights.join(key)    one task per key, owned by the session
    cache.get        a hit on disk resolves the flight
    shared.get       so does a hit in the shared tier, if there is one, which is stored on disk
    models.pool      the model is loaded, if need be
    computing        other processes and machines wait for the answer
    models.run       a worker computes
    cache.put        committed before any caller is answered
    shared.put       in the background
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import cache, cached_property, partial
from marshal import dumps
from pathlib import Path
from types import NoneType
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import attrs

from asteady._base.constraints import check_length
from asteady._base.errors import (
    AnswerCutError,
    CacheMissError,
    InvalidRequestError,
    ModelChangedError,
)
from asteady._base.files import AnyPath
from asteady._base.rendering import TODAY
from asteady._base.requests import (
    Chunk,
    Completion,
    DeclaredPrefix,
    Embedding,
    EmbedRequest,
    GenerateRequest,
    Key,
    Kind,
    is_large,
)
from asteady._base.settings import Settings, model_reference
from asteady._base.tasks import run_aside
from asteady._base.tools import check_definitions
from asteady._base.validation import one_of
from asteady._cache.cache import AliasOf, Cache
from asteady._cache.manager import CacheManager
from asteady._cache.shared_entry import SharedEntry
from asteady._session.flight import Asked, Flight, Flights
from asteady._session.lifetime import OwnedTasks
from asteady._session.models import Models
from asteady._session.observe import Observers, Outcome, Watch

A = TypeVar("A", bound=Completion | Embedding)
R = TypeVar("R", GenerateRequest, EmbedRequest)

CacheMode: TypeAlias = Literal["use", "refresh", "bypass", "only"]

_MODES = ("use", "refresh", "bypass", "only")

# How often an answer is computed, if the model's file is written to again and again, or its server
# is lost.
_ATTEMPTS = 3


def alias_of(subject: object, model: AnyPath | None, options: Mapping[str, Any]) -> Hashable:
    """The memory tier's name for the raw arguments of a call: what a warm hit is found by.

    `subject` is the prompt or the text. The options are serialised, since 1, 1.0 and True are equal
    as they are, and a list of messages cannot be hashed; marshal is the fastest that tells their
    types apart. Version 2 of its format depends on nothing but the values.

    Raises:
        ValueError: an option cannot be serialised; it has no alias.
    """
    return (subject, model, dumps(options, 2)) if options else (subject, model)  # type: ignore[arg-type]  # refused if not


def _is_plain(value: Any) -> bool:
    """Whether `marshal` tells a value's type: what else it takes, such as a number of numpy, it
    writes as mere bytes, which may be those of another number of another type."""
    kind = type(value)
    if kind in (list, tuple):
        return all(map(_is_plain, value))
    if kind is dict:
        return all(_is_plain(key) and _is_plain(item) for key, item in value.items())
    return kind in (str, int, float, bool, NoneType)


@attrs.frozen(kw_only=True, eq=False)
class Call:
    """One validated call on its way to an answer.

    `model` is a reference, never None. `alias` is what the answer is found by in memory besides
    its key. `namespace` is the one that the entry is tagged with. `prefix` only matters to a
    computation that this call starts.
    """

    request: GenerateRequest | EmbedRequest
    model: str
    mode: CacheMode = "use"
    alias: Hashable = None
    namespace: str | None = None
    prefix: DeclaredPrefix | None = None

    @property
    def looks_up(self) -> bool:
        """Whether the cache may answer it; only then it counts as a hit, miss or coalesced."""
        return self.mode in ("use", "only")


Tag: TypeAlias = Callable[[Call, Key, str, str], Awaitable[None]]
"""Tags the entry of a call with this key, of a model with this fingerprint, with a namespace."""


class Joined(Generic[A]):
    """One caller's place in an answer: the answer itself, or a place in its flight.

    It is given up exactly once, by `wait` or by `leave`.
    """

    def __init__(
        self,
        call: Call,
        key: Key,
        fingerprint: str,
        cache: Cache[A],
        outcome: Outcome,
        *,
        answer: A | None = None,
        flight: Flight[A] | None = None,
        watch: Watch | None,
        tag: Tag,
    ) -> None:
        self._call = call
        self._key = key
        self.fingerprint = fingerprint
        """That of the model, as far as is known: the answer has the one that computed it."""
        self._cache = cache
        self._outcome: Outcome = outcome
        self._answer = answer
        self._flight = flight
        self._watch = watch
        self._tag_entry = tag
        self._namespace = None if call.mode == "bypass" else call.namespace
        if self._namespace is not None and flight is not None:
            # Stored with the answer, in one commit, if this flight stores it.
            flight.namespaces.add(self._namespace)

    @property
    def key(self) -> Key:
        """The key that the answer is stored under, or would be."""
        return self._key

    @property
    def outcome(self) -> Outcome:
        """Where the answer comes from, as far as is known."""
        found = None if self._flight is None else self._flight.found
        return found if found and self._outcome == "computed" else self._outcome

    @property
    def chunks(self) -> Sequence[Chunk]:
        """The chunks so far; `wait_chunk` says when there will be no more."""
        if self._flight is not None:
            return self._flight.chunks
        return self._remembered

    @cached_property
    def _remembered(self) -> Sequence[Chunk]:
        return self._answer.all_chunks() if isinstance(self._answer, Completion) else ()

    async def wait_chunk(self, index: int) -> bool:
        """Wait until chunk `index` is there (True) or there will be none (False)."""
        more = index < len(self.chunks)
        if self._flight is not None:
            more = await self._flight.wait_chunk(index)
        if not more and (self._flight is None or self._flight.succeeded):
            self.result()
            await self._tag()
        return more

    async def wait(self) -> A:
        """The answer; see `Flight.wait`. A cancelled wait gives the place up."""
        try:
            if self._flight is not None:
                await self._flight.wait_done()
            answer = self.result()
            await self._tag()
            return answer
        finally:
            self.leave(sys.exception())

    def result(self) -> A:
        """The answer of a flight that is done; raises what the computation raised."""
        if self._flight is not None:
            self._answer = self._flight.result()
            if self._flight.stored_as is not None:
                self._key = self._flight.stored_as
                if self._watch is not None:
                    self._watch.key = self._key
            self._outcome = self.outcome
        assert self._answer is not None
        return self._answer

    def leave(self, error: BaseException | None = None) -> None:
        """Give the place up; `error` is what the caller gets instead of an answer."""
        if self._namespace is not None and self._call.looks_up:
            outcome = self.outcome
            lookups = self._cache.lookups_of(self._namespace)
            if outcome == "coalesced":
                lookups.coalesced += 1
            elif outcome == "computed":
                lookups.misses += 1
            else:
                lookups.hits += 1
        if self._flight is not None:
            self._flight.leave()
        if self._watch is not None:
            self._watch.ended(self._outcome, self._answer, error)

    async def _tag(self) -> None:
        if self._namespace is not None:
            await self._tag_entry(self._call, self._key, self.fingerprint, self._namespace)


class Pipeline(Generic[A]):
    """Answers the calls of one kind; lives as long as its session.

    Every call that is valid counts once in the statistics of its cache, however it ends: as a hit,
    a miss or coalesced. Bypassing and refreshing calls are no lookups and do not count.
    """

    def __init__(
        self,
        kind: Kind,
        cache: Cache[A],
        models: Models,
        flights: Flights,
        observers: Observers,
        *,
        any_cpu: bool = False,
    ) -> None:
        self._kind: Kind = kind
        self._cache = cache
        self._models = models
        self._flights = flights
        self._observers = observers
        self._any_cpu = any_cpu

    async def join(self, call: Call) -> Joined[A]:
        """Join the computation of the answer, or start it, unless the memory tier has it.

        Raises:
            InvalidRequestError: the mode is none of the four.
            ModelError: the model is unavailable.
        """
        watch = None
        if self._observers.active:
            watch = Watch(self._observers, call.request, call.model)
        asked_s, clears = time.time(), self._cache.clears
        try:
            one_of("cache", call.mode, _MODES)
            try:
                fingerprint = await self._models.fingerprint(
                    self._kind, call.model, load=call.mode != "only"
                )
                key = await _key_of(call.request, fingerprint)
            except BaseException:
                self._missed(call)
                raise
            if watch is not None:
                watch.key = key
            return self._join(call, key, fingerprint, asked_s, clears, watch)
        except BaseException as exc:
            if watch is not None:
                watch.ended(error=exc)
            raise

    async def answer(self, call: Call) -> A:
        """`join`, and wait. Cancelling stops waiting; when nobody waits, the computation stops."""
        return await (await self.join(call)).wait()

    async def key(self, call: Call) -> Key:
        """The key of the answer. Reads the model's file, but loads no weights.

        Raises:
            ModelError: the model is unavailable.
        """
        fingerprint = await self._models.fingerprint(self._kind, call.model)
        return await _key_of(call.request, fingerprint)

    async def contains(self, call: Call) -> bool:
        """Whether the answer is in the cache; computes, counts and touches nothing."""
        fingerprint = await self._models.fingerprint(self._kind, call.model)
        key = await _key_of(call.request, fingerprint)
        if await self._cache.contains(key):
            return True
        shared = await self._shared_entry(call.request, key, fingerprint)
        return shared is not None and await shared.contains()

    async def ensure_tagged(self, call: Call) -> bool:
        """Whether it is in the store of this machine; then it is tagged with the call's namespace,
        if any."""
        fingerprint = await self._models.fingerprint(self._kind, call.model)
        key = await _key_of(call.request, fingerprint)
        if not await self._cache.contains(key):
            return False
        if call.namespace is not None:
            await self._tag(call, key, fingerprint, call.namespace)
        return True

    async def _tag(self, call: Call, key: Key, fingerprint: str, namespace: str) -> None:
        if await self._cache.tag(key, namespace):
            shared = await self._shared_entry(call.request, key, fingerprint)
            if shared is not None:
                shared.tag([namespace])

    def _missed(self, call: Call) -> None:
        """Count a call that ended before its key was known."""
        if call.looks_up:
            self._cache.missed()
            if call.namespace is not None:
                self._cache.lookups_of(call.namespace).misses += 1

    def _join(
        self,
        call: Call,
        key: Key,
        fingerprint: str,
        asked_s: float,
        clears: int,
        watch: Watch | None,
    ) -> Joined[A]:
        joined = partial(Joined, call, key, fingerprint, self._cache, watch=watch, tag=self._tag)
        # Nothing is awaited from here on: looking and joining are one step.
        if call.looks_up:
            answer = self._cache.recall_key(key, alias=call.alias)
            if answer is not None:
                return joined("memory", answer=answer)

        async def compute(flight: Flight[A]) -> A:
            return await self._answer(flight, call, key, fingerprint, clears)

        # All who join one flight get the same answer. A bypassing call shares with nobody, nor does
        # one that was made after a clear with one that was made before, and will not be stored.
        flight, started = self._flights.join(
            object() if call.mode == "bypass" else (self._kind, call.mode, key, clears), compute
        )
        if started:
            flight.asked = Asked(kind=self._kind, request=call.request, model=call.model, key=key)
        flight.asked_s = min(flight.asked_s, asked_s)
        if not started and call.looks_up:
            self._cache.counters.coalesced += 1
        outcome: Outcome = "computed" if started else "coalesced"
        return joined(outcome, flight=flight)

    async def _answer(
        self, flight: Flight[A], call: Call, key: Key, fingerprint: str, clears: int
    ) -> A:
        cache = self._cache

        def key_by(loaded: str) -> Key:
            if loaded == fingerprint:
                return key
            # The model is another one than was identified: the answer is stored as what it is.
            flight.stored_as = call.request.key(loaded)
            return flight.stored_as

        async def store(key: Key, answer: A) -> None:
            await cache.put(
                key,
                answer,
                alias=call.alias,
                request=call.request,
                namespaces=tuple(flight.namespaces),
                asked_s=flight.asked_s,
            )

        async def keep(found: A) -> A:
            await store(key, found)
            if shared is not None:
                shared.tag(flight.namespaces)
            return _replay(flight, found, "shared")

        fits = self._fits(call.request, fingerprint)
        shared = None
        if call.mode != "bypass":
            shared = await self._shared_entry(call.request, key, fingerprint, fits)
        if call.looks_up:
            try:
                found = await cache.find(key, alias=call.alias, fits=fits)
                if found is not None:
                    return _replay(flight, found, "disk")
                found = None if shared is None else await shared.get()
            except BaseException:
                cache.missed()
                raise
            if found is not None:
                kept = await keep(found)
                cache.found_elsewhere(key, found)
                return kept
            cache.missed()
            if call.mode == "only":
                raise CacheMissError(
                    f"the answer with key {key} is not in the cache, and cache='only' does not"
                    " compute; leave it out to compute"
                )
        if call.mode == "bypass":
            return (await self._compute(flight, call))[0]
        # Before the lock, which is an open file, and may be held up by the loading of others.
        pool = await self._models.pool(self._kind, call.model)
        key_now = key_by(pool.fingerprint)
        async with AsyncExitStack() as stack:
            # What the model's server takes must not be held here: it would wait for this process,
            # and this process for it.
            if not pool.takes_locks:
                with self._models.activities.during("waiting", call.model):
                    await stack.enter_async_context(cache.computing(key_now))
            # Another process may have stored it since the lookup.
            if call.mode == "use" and (found := await cache.peek(key_now, fits=fits)) is not None:
                return _replay(flight, found, "disk")
            leases = call.mode == "use" and not pool.takes_lease(call.request)
            if shared is not None and leases:
                with self._models.activities.during("waiting", call.model):
                    found = await stack.enter_async_context(shared.computing())
                if found is not None:
                    return await keep(found)
            answer, loaded = await self._compute(flight, call)
            await store(key_by(loaded), answer)
            if shared is not None and loaded == fingerprint and cache.clears == clears:
                shared.put(answer, answer.cost_s, tuple(flight.namespaces))
        return answer

    async def _shared_entry(
        self,
        request: GenerateRequest | EmbedRequest,
        key: Key,
        fingerprint: str,
        fits: Callable[[A], bool] | None = None,
    ) -> SharedEntry[A] | None:
        """The entry of the shared tier, if there is such a tier."""
        shared = self._cache.shared
        if shared is None:
            return None
        if (
            self._any_cpu
            and (portable := self._models.portable_fingerprint(fingerprint)) != fingerprint
        ):
            fingerprint, key = portable, await _key_of(request, portable)
        return shared.entry(key, fingerprint, fits)

    def _fits(
        self, request: GenerateRequest | EmbedRequest, fingerprint: str
    ) -> Callable[[A], bool] | None:
        """What a stored answer must be: a vector as long as it is requested, or as its model's."""
        if not isinstance(request, EmbedRequest):
            return None
        dimensions = request.dimensions or self._models.dimensions(fingerprint)
        if not dimensions:
            return None
        return lambda answer: isinstance(answer, Embedding) and len(answer.vector) == dimensions

    async def _compute(self, flight: Flight[A], call: Call) -> tuple[A, str]:
        """The answer, and the fingerprint of the engine that computed it."""
        run = self._models.run
        for _ in range(_ATTEMPTS - 1):
            try:
                # The answer to a request of this kind is an A.
                return await run(self._kind, call.model, call.request, flight.emit, call.prefix)  # type: ignore[return-value]
            except (ModelChangedError, AnswerCutError):
                if not flight.restart():
                    raise
        return await run(self._kind, call.model, call.request, flight.emit, call.prefix)  # type: ignore[return-value]


async def _key_of(request: GenerateRequest | EmbedRequest, fingerprint: str) -> Key:
    if is_large(request):
        return await run_aside(partial(request.key, fingerprint))
    return request.key(fingerprint)


def _replay(flight: Flight[A], found: A, where: Literal["disk", "shared"]) -> A:
    flight.found = where
    if isinstance(found, Completion):
        flight.emit(*found.all_chunks())
    return found


@attrs.frozen(kw_only=True, eq=False)
class CallContext:
    """What makes calls of one session: the session itself, its namespaces and its prefixes.

    For asteady's own packages, by `context_of`. It does not know the session, so that a session
    that is dropped without being closed is collected.
    """

    settings: Settings
    cache: CacheManager
    models: Models
    flights: Flights
    generation: Pipeline[Completion]
    embedding: Pipeline[Embedding]
    observers: Observers
    tasks: OwnedTasks
    namespace: str | None = None
    isolation: str | None = None
    """The path of the namespace that the calls are isolated in, if any."""
    prefix: DeclaredPrefix | None = None
    alias_of: AliasOf = alias_of
    directory: Callable[[], Path] = attrs.Factory(lambda: cache(Path.cwd))
    """The directory that was current at the first call."""

    def isolated(self, request: R) -> R:
        """The request as it is made here: one of an isolated namespace has a key of its own."""
        if self.isolation is None:
            return request
        return attrs.evolve(request, isolation=self.isolation)

    def request(self, arguments: Mapping[str, Any]) -> GenerateRequest:
        """As `GenerateRequest.of`, with the session's date if the arguments have none, and its
        limit of forms."""
        if arguments.get("date") is None:
            arguments = {**arguments, "date": self.settings.date}
        request = GenerateRequest.of(**arguments)
        check_length(request.constraint, self.settings.form_max_characters)
        check_definitions(request.tools, self.settings.form_max_characters)
        return request

    def alias(self, subject: object, model: AnyPath | None, options: Mapping[str, Any]) -> Hashable:
        """The alias that an answer to these valid arguments may be found by; None for none."""
        if not all(map(_is_plain, options.values())):
            return None
        # An answer of another class of CPU has its fingerprint, so nobody could tell when it is no
        # longer the one to these arguments.
        if self.settings.shared_cache_any_cpu:
            return None
        # Tomorrow the same arguments are another request.
        if TODAY in (options.get("date"), self.settings.date):
            return None
        return self.alias_of(subject, model, options)

    def model(self, kind: Kind, model: AnyPath | None) -> str:
        """The reference that a call means: its own, or the session's for this kind.

        All relative paths begin in the directory that was current when the first one was given: a
        warm answer is found by the path as it was given, so it must go on to mean the same file.

        Raises:
            InvalidRequestError: it is no str and no path, or no file can have it as its path.
        """
        if model is None:
            settings = self.settings
            return settings.generation_model if kind == "generation" else settings.embedding_model
        return model_reference("model", model, base=self.directory, error=InvalidRequestError)
