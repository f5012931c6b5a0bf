"""Sessions, namespaces, prefixes and caches without await, and the default session."""

from __future__ import annotations

import atexit
import logging
import warnings
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, Unpack, overload

import asteady._session.default as _default
from asteady._base.errors import (
    InvalidRequestError,
    SessionClosedError,
    SessionNotOpenError,
)
from asteady._base.files import AnyPath
from asteady._base.options import (
    EmbedOptions,
    GenerateOptions,
    SettingsOptions,
    TypedOptions,
)
from asteady._base.public import public
from asteady._base.requests import (
    Completion,
    DeclaredPrefix,
    Embedding,
    EmbedMode,
    Kind,
    TypedCompletion,
    Vector,
    namespace_path,
)
from asteady._base.settings import Settings
from asteady._base.validation import flag
from asteady._cache.cache import Cache as AsyncCache
from asteady._cache.manager import CacheManager as AsyncCacheManager
from asteady._engine.api import Engine
from asteady._session.calls import Calls as AsyncCalls, Progress
from asteady._session.generation import (
    GenerationCalls as AsyncGenerationCalls,
    Prefix as AsyncPrefix,
    Stream as AsyncStream,
    context_of,
)
from asteady._session.namespace import Namespace as AsyncNamespace
from asteady._session.observe import Observer
from asteady._session.pipeline import CacheMode
from asteady._session.session import Session as AsyncSession
from asteady.blocking._fast_path import FastPath, HitCounter
from asteady.blocking._portal import (
    Plain,
    Portal,
    TimeLimit,
    documented_as,
    iterated,
    on_loop,
    portal,
    started,
    waited,
)
from asteady.blocking._stream import Stream, TypedStream

logger = logging.getLogger("asteady")

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
M = TypeVar("M", bound=Enum)
E = TypeVar("E", bound=str | Enum)
S = TypeVar("S")
A = TypeVar("A", Completion, Embedding)
C = TypeVar("C", bound=AsyncGenerationCalls)
D = TypeVar("D", bound=AsyncCalls)

# Closing at exit: longer than both databases take to flush. Then the interpreter exits regardless.
_EXIT_S = 5.0

_sessions: weakref.WeakSet[AsyncSession] = weakref.WeakSet()


class Root:
    """The session behind plain objects: the default session of the portal's loop."""

    counter: HitCounter
    """Of the session that `session` returned last."""

    def __init__(self) -> None:
        self._last: AsyncSession | None = None

    def portal(self) -> Portal:
        """The portal on whose loop the session is; raises if it cannot be used."""
        return portal()

    async def session(self) -> AsyncSession:
        """The session, with all hits counted; on the loop."""
        session = await self.find()
        if session is not self._last:  # the first call, or another default session
            self.counter, self._last = HitCounter(self.portal()), session
        self.count()
        return session

    async def find(self) -> AsyncSession:
        """The session, open if it is the default one; on the loop."""
        return await _default.default_session()

    def count(self) -> None:
        """Count the hits so far; on the loop."""
        if self._last is not None:
            self.counter.count()


class _OwnRoot(Root):
    """A session that was constructed, from `open` to `close`."""

    def __init__(self, session: AsyncSession) -> None:
        super().__init__()
        self.behind = session
        self.opened_by: Portal | None = None

    def portal(self) -> Portal:
        if self.opened_by is None:
            if self.behind.is_closed:
                raise SessionClosedError("the session is closed; open a new one")
            raise SessionNotOpenError(
                "the session is not open yet: use `with Session() as session`, or session.open()"
            )
        return self.opened_by

    async def find(self) -> AsyncSession:
        return self.behind


class Part(Plain[S]):
    """Base of the plain classes for a session and for what ``part(session)`` finds in it."""

    def __init__(self, root: Root, part: Callable[[AsyncSession], S]) -> None:
        self._root = root
        self._part = part

    def _portal(self) -> Portal:
        return self._root.portal()

    async def _target(self) -> S:
        return self._part(await self._root.session())


class _GenerateOptions(GenerateOptions, total=False):
    timeout: float | None


class _TypedOptions(TypedOptions, total=False):
    timeout: float | None


class _EmbedOptions(EmbedOptions, total=False):
    timeout: float | None


def _without_timeout(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that an answer is remembered by."""
    return {name: value for name, value in options.items() if name != "timeout"}


class GenerationCalls(Part[C]):
    """The calls that generate text. Any thread may use them; Ctrl-C in one cancels its request."""

    def __init__(self, root: Root, part: Callable[[AsyncSession], C]) -> None:
        super().__init__(root, part)
        self._fast_path = FastPath()
        self._calls_of: AsyncSession | None = None

    async def _target(self) -> C:
        session = await self._root.session()
        if session is not self._calls_of:
            self._calls = self._part(session)
            self._calls_of = session
            self._fast_path.renew(self._calls, self._root.counter)
        return self._calls

    @overload
    def generate(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        **options: Unpack[_GenerateOptions],
    ) -> str: ...

    @overload
    def generate(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        schema: type[T],
        **options: Unpack[_GenerateOptions],
    ) -> T: ...

    @overload
    def generate(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        schema: object,
        **options: Unpack[_GenerateOptions],
    ) -> Any: ...

    @overload
    def generate(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        choices: type[M],
        **options: Unpack[_GenerateOptions],
    ) -> M: ...

    @overload
    def generate(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        choices: Sequence[E],
        **options: Unpack[_GenerateOptions],
    ) -> E: ...

    @overload
    def generate(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        choices: object,
        **options: Unpack[_GenerateOptions],
    ) -> Any: ...

    @documented_as(AsyncGenerationCalls.generate, timeout_in_options=True)
    def generate(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        **options: Any,
    ) -> Any:
        recall = self._fast_path.completion
        if recall is not None and cache == "use":
            answer = recall(prompt, model, options)
            if answer is not None:
                return answer.text
            if "timeout" in options:
                answer = recall(prompt, model, _without_timeout(options))
                if answer is not None:
                    return answer.text
        return self._generate(prompt, model=model, cache=cache, **options)

    _generate = waited(AsyncGenerationCalls.generate)

    @overload
    def complete(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        **options: Unpack[_GenerateOptions],
    ) -> Completion: ...

    @overload
    def complete(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        schema: type[T],
        **options: Unpack[_GenerateOptions],
    ) -> TypedCompletion[T]: ...

    @overload
    def complete(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        schema: object,
        **options: Unpack[_GenerateOptions],
    ) -> TypedCompletion[Any]: ...

    @overload
    def complete(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        choices: type[M],
        **options: Unpack[_GenerateOptions],
    ) -> TypedCompletion[M]: ...

    @overload
    def complete(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        choices: Sequence[E],
        **options: Unpack[_GenerateOptions],
    ) -> TypedCompletion[E]: ...

    @overload
    def complete(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        choices: object,
        **options: Unpack[_GenerateOptions],
    ) -> TypedCompletion[Any]: ...

    @documented_as(AsyncGenerationCalls.complete, timeout_in_options=True)
    def complete(self, prompt: str | None = None, **options: Any) -> Any:
        return self._complete(prompt, **options)

    _complete = waited(AsyncGenerationCalls.complete)
    is_cached = waited(AsyncGenerationCalls.is_cached)
    tokenize = waited(AsyncGenerationCalls.tokenize)
    detokenize = waited(AsyncGenerationCalls.detokenize)

    @overload
    def count_tokens(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        kind: Kind = "generation",
        mode: EmbedMode | None = None,
        **options: Unpack[_TypedOptions],
    ) -> int: ...

    @overload
    def count_tokens(
        self,
        prompt: list[str] | tuple[str, ...],
        *,
        model: AnyPath | None = None,
        kind: Kind = "generation",
        mode: EmbedMode | None = None,
        **options: Unpack[_TypedOptions],
    ) -> list[int]: ...

    @documented_as(AsyncGenerationCalls.count_tokens, timeout_in_options=True)
    def count_tokens(self, prompt: Any = None, **options: Any) -> Any:
        return self._count_tokens(prompt, **options)

    _count_tokens = waited(AsyncGenerationCalls.count_tokens)

    @overload
    def stream(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        timeout: float | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Stream: ...

    @overload
    def stream(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        timeout: float | None = None,
        schema: type[T],
        **options: Unpack[GenerateOptions],
    ) -> TypedStream[T]: ...

    @overload
    def stream(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        timeout: float | None = None,
        schema: object,
        **options: Unpack[GenerateOptions],
    ) -> TypedStream[Any]: ...

    @overload
    def stream(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        timeout: float | None = None,
        choices: type[M],
        **options: Unpack[GenerateOptions],
    ) -> TypedStream[M]: ...

    @overload
    def stream(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        timeout: float | None = None,
        choices: Sequence[E],
        **options: Unpack[GenerateOptions],
    ) -> TypedStream[E]: ...

    @overload
    def stream(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        timeout: float | None = None,
        choices: object,
        **options: Unpack[GenerateOptions],
    ) -> TypedStream[Any]: ...

    @documented_as(AsyncGenerationCalls.stream)
    def stream(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        timeout: float | None = None,
        **options: Any,
    ) -> Any:
        async def start() -> AsyncStream:
            calls = await self._target()
            stream: AsyncStream = calls.stream(prompt, model=model, cache=cache, **options)
            return stream

        typed = options.get("schema") is not None or options.get("choices") is not None
        return (TypedStream if typed else Stream)(self._portal, start, timeout)

    @documented_as(AsyncGenerationCalls.generate)
    def generate_iter(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        timeout: float | None = None,
        **options: Unpack[TypedOptions],
    ) -> Iterator[str]:
        """The chunks of `generate`, as they are computed.

        Closing the generator, or dropping it, stops the computation unless somebody else waits.
        """
        given: dict[str, Any] = {"model": model, "cache": cache, "timeout": timeout, **options}
        with self.stream(prompt, **given) as chunks:
            yield from chunks


@public
class Prefix(GenerationCalls[AsyncPrefix]):
    """`asteady.Prefix` without await; from `Session.prefix`. Usable as long as the session is."""

    def __init__(self, root: Root, make: Callable[[AsyncSession], AsyncPrefix], text: str) -> None:
        super().__init__(root, make)
        self.text = text

    def __repr__(self) -> str:
        return f"<blocking Prefix of {len(self.text)} characters>"


class Calls(GenerationCalls[D]):
    """The calls that generate, embed and warm.

    Callbacks and iterables given to them are called and read on the background loop's thread.
    """

    @documented_as(AsyncCalls.embed, timeout_in_options=True)
    def embed(
        self,
        text: str | Sequence[str],
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        progress: Progress | None = None,
        **options: Unpack[_EmbedOptions],
    ) -> Vector:
        recall = self._fast_path.embedding
        if recall is not None and cache == "use" and isinstance(text, str):
            answer = recall(text, model, options)
            if answer is not None:
                return answer.vector
            if "timeout" in options:
                answer = recall(text, model, _without_timeout(options))
                if answer is not None:
                    return answer.vector
        return self._embed(text, model=model, cache=cache, progress=progress, **options)

    _embed = waited(AsyncCalls.embed)
    embedding = waited(AsyncCalls.embedding)
    embed_batches = iterated(AsyncCalls.embed_batches)
    warm = waited(AsyncCalls.warm)

    @documented_as(AsyncCalls.prefix)
    def prefix(self, text: str) -> Prefix:
        DeclaredPrefix.of(text)
        return Prefix(self._root, lambda session: self._part(session).prefix(text), text)


@public
class Namespace(Calls[AsyncNamespace]):
    """`asteady.Namespace` without await; from `Session.namespace`. Usable as long as the
    session is."""

    def __init__(self, root: Root, path: str, isolation: str | None = None) -> None:
        self.path = path = namespace_path(path)
        self.isolation = isolation
        super().__init__(root, lambda session: AsyncNamespace(session, path, isolation))

    def __repr__(self) -> str:
        isolated = "" if self.isolation is None else f" (isolated in {self.isolation})"
        return f"<blocking Namespace {self.path}{isolated}>"

    @documented_as(AsyncNamespace.namespace)
    def namespace(self, path: str, *, isolated: bool = False) -> Namespace:
        path = f"{self.path}/{namespace_path(path)}"
        return Namespace(self._root, path, path if flag("isolated", isolated) else self.isolation)

    preload = waited(AsyncNamespace.preload)
    statistics = waited(AsyncNamespace.statistics)
    entries = waited(AsyncNamespace.entries)
    children = waited(AsyncNamespace.children)
    clear = waited(AsyncNamespace.clear)


@public
class Cache(Part[AsyncCache[A]]):
    """`asteady.Cache` without await: one cache of a session. Usable as long as the session is."""

    def __init__(self, root: Root, kind: Literal["generation", "embedding"]) -> None:
        super().__init__(root, lambda session: getattr(session.cache, kind))
        self.kind = kind

    def __repr__(self) -> str:
        return f"<blocking Cache {self.kind}>"

    get = waited(AsyncCache[A].get)
    contains = waited(AsyncCache[A].contains)
    put = waited(AsyncCache[A].put)
    delete = waited(AsyncCache[A].delete)
    clear = waited(AsyncCache[A].clear)
    keys = waited(AsyncCache[A].keys)
    entries = waited(AsyncCache[A].entries)
    request = waited(AsyncCache[A].request)
    statistics = waited(AsyncCache[A].statistics)


@public
class CacheManager(Part[AsyncCacheManager]):
    """`asteady.CacheManager` without await: both caches of a session. Usable as long as the session
    is; of the default session, also after `close`."""

    def __init__(self, root: Root) -> None:
        super().__init__(root, lambda session: session.cache)
        self.generation: Cache[Completion] = Cache(root, "generation")
        self.embedding: Cache[Embedding] = Cache(root, "embedding")

    def __repr__(self) -> str:
        return "<blocking CacheManager>"

    @property
    def directory(self) -> Path:
        """Where the databases are."""
        return self._read(lambda manager: manager.directory)

    get_cache_stats = waited(AsyncCacheManager.get_cache_stats)
    clear_all_caches = waited(AsyncCacheManager.clear_all_caches)
    namespaces = waited(AsyncCacheManager.namespaces)
    namespace_size = waited(AsyncCacheManager.namespace_size)
    clear_namespace = waited(AsyncCacheManager.clear_namespace)
    shared_statistics = waited(AsyncCacheManager.shared_statistics)
    export_entries = waited(AsyncCacheManager.export_entries)
    import_entries = waited(AsyncCacheManager.import_entries)
    push_entries = waited(AsyncCacheManager.push_entries)
    pull_entries = waited(AsyncCacheManager.pull_entries)


class SessionCalls(Calls[AsyncSession]):
    """The calls of a whole session."""

    def __init__(self, root: Root) -> None:
        super().__init__(root, lambda session: session)

    @documented_as(AsyncSession.namespace)
    def namespace(self, path: str, *, isolated: bool = False) -> Namespace:
        return Namespace(self._root, path, path if flag("isolated", isolated) else None)

    load = waited(AsyncSession.load)
    unload = waited(AsyncSession.unload)
    statistics = on_loop(AsyncSession.statistics)
    flights = on_loop(AsyncSession.flights)


@public
class Session(SessionCalls):
    """`asteady.Session` without await: ``with Session() as session``, or `open` and `close`.

    It lives from `open` to `close`, at the latest until the interpreter exits. Any thread may use
    it. Arguments, answers and errors are those of `asteady.Session`.
    """

    @documented_as(AsyncSession.__init__)
    def __init__(
        self,
        settings: Settings | None = None,
        *,
        engine: Engine | None = None,
        **arguments: Unpack[SettingsOptions],
    ) -> None:
        self._own = _OwnRoot(AsyncSession(settings, engine=engine, **arguments))
        super().__init__(self._own)
        self.cache = CacheManager(self._own)

    @property
    def settings(self) -> Settings:
        return self._own.behind.settings

    @property
    def awaitable(self) -> AsyncSession:
        """The `asteady.Session` behind it, for use on its own event loop only, with `run`.

        ::

            run(session.awaitable.load, "generation")
        """
        return self._own.behind

    @property
    def state(self) -> str:
        """ "unopened", "opening", "open", "closing" or "closed"."""
        return self._own.behind.state

    @property
    def is_open(self) -> bool:
        return self._own.behind.is_open

    @property
    def is_closed(self) -> bool:
        return self._own.behind.is_closed

    @documented_as(AsyncSession.open)
    def open(self, *, timeout: float | None = None) -> Session:
        background = portal()
        background.call(self._own.behind.open, TimeLimit(timeout))
        self._own.opened_by = background
        _sessions.add(self._own.behind)
        return self

    @documented_as(AsyncSession.aclose)
    def close(self, *, timeout: float | None = None) -> None:
        async def close() -> None:
            self._own.count()
            await self._own.behind.aclose()

        if self._own.opened_by is not None:
            self._own.opened_by.call(close, TimeLimit(timeout))

    @contextmanager
    def observe(self, observer: Observer, *, everywhere: bool = False) -> Iterator[None]:
        """Have `observer` called with an `Observed` for each call that ends within the block.

        By default it sees the calls of this thread, with ``everywhere=True`` all calls of the
        session. It is called on the background loop's thread, so it should be quick. While anybody
        observes, a warm hit goes through the loop.
        """
        with self._own.behind.observe(observer, everywhere=everywhere):
            yield

    def __enter__(self) -> Session:
        return self.open()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        own: _OwnRoot | None = getattr(self, "_own", None)
        if own is None or own.opened_by is None or own.behind.is_closed:
            return
        if own.opened_by is started():  # not in a forked child
            own.behind.abandon()
            # Without its repr: see `asteady.Session`.
            warnings.warn(
                "a session was never closed; use `with`, or close()",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    def __repr__(self) -> str:
        return f"<blocking {self._own.behind!r}>"


def root_of(session: Session | None) -> Root:
    """What a tool uses for this session; None means the default session.

    Raises:
        InvalidRequestError: it is no `asteady.blocking.Session`.
    """
    if session is None:
        return _default_root
    if not isinstance(session, Session):
        raise InvalidRequestError(
            f"session={session!r} is not allowed: an asteady.blocking.Session; asteady.Session has"
            " its tools in asteady.operate"
        )
    return session._root


# -- the default session ---------------------------------------------------------------------------


class _DefaultCalls(SessionCalls):
    """The module's functions are the methods of its only instance."""

    def __reduce__(self) -> str:
        # Process pools send the functions to their children.
        return "_default_calls"


_default_root = Root()
_default_calls = _DefaultCalls(_default_root)

generate = _default_calls.generate
generate_iter = _default_calls.generate_iter
complete = _default_calls.complete
stream = _default_calls.stream
embed = _default_calls.embed
embed_batches = _default_calls.embed_batches
is_cached = _default_calls.is_cached
count_tokens = _default_calls.count_tokens
warm = _default_calls.warm
namespace = _default_calls.namespace
prefix = _default_calls.prefix


@public
def get_cache_manager() -> CacheManager:
    """The caches of the default session, which is opened at their first use."""
    return CacheManager(_default_root)


@public
def run(fn: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R:
    """Await ``fn(*args, **kwargs)`` on the background loop; for whatever has no plain call here.

    All arguments are those of `fn`; ``asyncio.timeout`` in it is a time limit. Within it,
    ``asteady.generate`` and the others use the same session as this module's functions.
    """
    return portal().call(lambda: fn(*args, **kwargs))


@public
def close(*, timeout: float | None = None) -> None:
    """Close the default session, if there is one; the next call opens another.

    After `timeout` seconds it raises `TimeoutError`, and closing goes on.
    """

    async def close() -> None:
        _default_root.count()
        await _default.aclose()

    background = started()
    if background is not None:
        background.call(close, TimeLimit(timeout))


def close_at_exit(limit_s: float = _EXIT_S) -> None:
    """Close all sessions and end the background thread."""
    background = started()
    if background is not None:
        background.stop(_close_all, limit_s)


async def _close_all() -> None:
    _default_root.count()
    sessions = [*_sessions, *_default.sessions_here()]
    for session in sessions:
        if session.is_open:
            # No worker is joined: the pool's exit hook has ended them.
            context_of(session).models.forget()
            try:
                await session.aclose()
            except Exception:
                logger.exception("closing a session at exit failed")


# Registered before the pool's exit hook, and so called after it.
atexit.register(close_at_exit)
