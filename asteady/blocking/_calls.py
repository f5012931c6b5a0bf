"""The calls of a session without await, from any thread.

A warm answer is looked up on the caller's own thread (`_fast_path`). Everything else goes
through the portal.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Unpack

import asteady._session.default as _default
from asteady._base.errors import SessionClosedError, SessionNotOpenError
from asteady._base.options import EmbedOptions
from asteady._base.requests import Embedding, Kind
from asteady._session.calls import Calls as AsyncCalls
from asteady._session.pipeline import CacheMode
from asteady._session.session import Session
from asteady.blocking._fast_path import Recaller
from asteady.blocking._generating_calls import GeneratingCalls
from asteady.blocking._portal import Portal, portal

if TYPE_CHECKING:
    from asteady._base.requests import Vector
    from asteady._session.calls import Progress
    from asteady._session.session import SessionStatistics
    from asteady._session.warm import WarmOptions, WarmReport, WarmSource
    from asteady.blocking._namespace import Namespace
    from asteady.blocking._prefix import Prefix


class Calls(GeneratingCalls):
    """What can be asked of a session; see the methods of the same name of `asteady.Session`."""

    @abstractmethod
    async def _session(self) -> AsyncCalls:
        """Whom to ask; on the loop."""
        ...

    def prefix(self, text: str) -> Prefix:
        """The calls that generate, with this text before each prompt; see
        `asteady.Session.prefix`.

        Raises:
            InvalidRequestError: `text` is no str, or empty.
        """
        from asteady.blocking._prefix import Prefix

        return Prefix(self, text)

    def warm(self, prompts: WarmSource, **options: Unpack[WarmOptions]) -> WarmReport:
        """Compute and remember answers before anybody asks; see `asteady.Session.warm`.

        Callbacks are called on the background loop's thread.
        """

        async def asked() -> WarmReport:
            return await (await self._session()).warm(prompts, **options)

        return self._portal().call(asked)

    # -- embedding -----------------------------------------------------------------------------

    def embed(
        self,
        text: str | Sequence[str],
        *,
        model: str | None = None,
        cache: CacheMode = "use",
        progress: Progress | None = None,
        **options: Unpack[EmbedOptions],
    ) -> Vector:
        """Embed one text, or several; arguments, shapes and errors as for `Session.embed`."""
        recaller = self._recaller
        if recaller is not None and cache == "use" and isinstance(text, str):
            answer = recaller.recall(recaller.embedding, text, model, options)
            if answer is not None:
                return answer.vector  # type: ignore[no-any-return]  # an Embedding's

        async def asked() -> Vector:
            session = await self._session()
            return await session.embed(text, model=model, cache=cache, progress=progress, **options)

        return self._portal().call(asked)

    def embed_batches(
        self,
        texts: Iterable[str],
        *,
        batch_size: int = 1024,
        progress: Progress | None = None,
        model: str | None = None,
        cache: CacheMode = "use",
        **options: Unpack[EmbedOptions],
    ) -> Iterator[Vector]:
        """Matrices of `batch_size` rows each, in bounded memory; see `Session.embed_batches`.

        `texts` is read on the background loop's thread, which waits while it is.
        """

        async def start() -> AsyncIterator[Vector]:
            session = await self._session()
            return session.embed_batches(
                texts,
                batch_size=batch_size,
                progress=progress,
                model=model,
                cache=cache,
                **options,
            )

        portal = self._portal()
        batches = portal.call(start)
        while (batch := portal.call(lambda: anext(batches, None))) is not None:
            yield batch

    def embedding(
        self,
        text: str,
        *,
        model: str | None = None,
        cache: CacheMode = "use",
        **options: Unpack[EmbedOptions],
    ) -> Embedding:
        """As `embed` of one text, with the whole record: vector, token count, model, cost."""

        async def asked() -> Embedding:
            session = await self._session()
            return await session.embedding(text, model=model, cache=cache, **options)

        return self._portal().call(asked)


class WholeCalls(Calls):
    """Calls of a whole session."""

    @abstractmethod
    async def _open_session(self) -> Session:
        """The session, open; on the loop."""
        ...

    async def _session(self) -> Session:
        session = await self._open_session()
        self.count()
        if self._recaller is None or self._recaller.session is not session:
            self._recaller = Recaller(self._portal(), session)
        return session

    def count(self) -> None:
        """Count the hits so far; on the loop."""
        if self._recaller is not None:
            self._recaller.counter.count()

    def namespace(self, path: str) -> Namespace:
        """The same calls, whose entries the namespace holds; see `asteady.Session.namespace`.

        Raises:
            InvalidRequestError: `path` is not names with single slashes between them.
        """
        from asteady.blocking._namespace import Namespace

        return Namespace(self, path)

    def load(self, *kinds: Kind) -> None:
        """Load the models now rather than at the first request; both, or those of `kinds`."""

        async def asked() -> None:
            await (await self._session()).load(*kinds)

        self._portal().call(asked)

    def statistics(self) -> SessionStatistics:
        """What the session is doing now."""

        async def asked() -> SessionStatistics:
            return (await self._session()).statistics()

        return self._portal().call(asked)


class DefaultCalls(WholeCalls):
    """Calls of the default session of the portal's loop: the one that `asteady.generate` and the
    others use there. Opened at the first call, with settings from the environment."""

    def _portal(self) -> Portal:
        return portal()

    async def _open_session(self) -> Session:
        return await _default.default_session()

    def __reduce__(self) -> str:
        # The module's functions are its methods; process pools send them to their children.
        return "default_calls"

    async def close(self) -> None:
        """Close the default session; on the loop."""
        self.count()
        self._recaller = None
        await _default.aclose()


default_calls = DefaultCalls()


class SessionCalls(WholeCalls):
    """Calls of one session, given at construction, from `open` to `close`."""

    def __init__(self, session: Session) -> None:
        self._asyncio_session = session
        self._opened_by: Portal | None = None

    def _portal(self) -> Portal:
        if self._opened_by is None:
            if self._asyncio_session.is_closed:
                raise SessionClosedError("the session is closed; open a new one")
            raise SessionNotOpenError(
                "the session is not open yet: use `with Session() as session`, or session.open()"
            )
        return self._opened_by

    async def _open_session(self) -> Session:
        return self._asyncio_session

    async def close_session(self) -> None:
        """Close it; on the loop."""
        self.count()
        await self._asyncio_session.aclose()
