"""Generating text without await: the calls that a session, its namespaces and prefixes share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Unpack

from asteady._base.options import GenerateOptions
from asteady._base.requests import Completion
from asteady._session.generation import GenerationCalls
from asteady._session.pipeline import CacheMode
from asteady.blocking._fast_path import Recaller
from asteady.blocking._portal import Portal
from asteady.blocking._stream import BlockingStream

if TYPE_CHECKING:
    from asteady._session.stream import Stream


class GeneratingCalls(ABC):
    """What can be asked of a generation model; see the methods of the same name of
    `asteady.Session`.

    Every method may be called from any thread. Ctrl-C while one waits cancels the request.
    """

    _recaller: Recaller | None = None

    @abstractmethod
    def _portal(self) -> Portal: ...

    @abstractmethod
    async def _session(self) -> GenerationCalls:
        """Whom to ask; on the loop."""
        ...

    def generate(
        self,
        prompt: str | None = None,
        *,
        model: str | None = None,
        cache: CacheMode = "use",
        **options: Unpack[GenerateOptions],
    ) -> str:
        """Generate text; arguments and errors as for `asteady.Session.generate`."""
        recaller = self._recaller
        if recaller is not None and cache == "use":
            answer = recaller.recall(recaller.generation, prompt, model, options)
            if answer is not None:
                return answer.text  # type: ignore[no-any-return]  # a Completion

        async def asked() -> str:
            session = await self._session()
            return await session.generate(prompt, model=model, cache=cache, **options)

        return self._portal().call(asked)

    def complete(
        self,
        prompt: str | None = None,
        *,
        model: str | None = None,
        cache: CacheMode = "use",
        **options: Unpack[GenerateOptions],
    ) -> Completion:
        """As `generate`, with the whole record: text, chunks, finish reason, counts, logprobs."""

        async def asked() -> Completion:
            session = await self._session()
            return await session.complete(prompt, model=model, cache=cache, **options)

        return self._portal().call(asked)

    def stream(
        self,
        prompt: str | None = None,
        *,
        model: str | None = None,
        cache: CacheMode = "use",
        **options: Unpack[GenerateOptions],
    ) -> BlockingStream:
        """As `generate`, in chunks as they are computed: ``with stream(...) as chunks: ...``."""

        async def start() -> Stream:
            session = await self._session()
            return session.stream(prompt, model=model, cache=cache, **options)

        return BlockingStream(self._portal, start)

    def generate_iter(
        self,
        prompt: str | None = None,
        *,
        model: str | None = None,
        cache: CacheMode = "use",
        **options: Unpack[GenerateOptions],
    ) -> Iterator[str]:
        """The chunks of `generate`, as they are computed.

        Closing the generator, or dropping it, stops the computation unless somebody else waits.
        """
        with self.stream(prompt, model=model, cache=cache, **options) as chunks:
            yield from chunks

    def is_cached(
        self,
        prompt: str | None = None,
        *,
        model: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> bool:
        """Whether `generate` with these arguments would be answered from the cache."""

        async def asked() -> bool:
            session = await self._session()
            return await session.is_cached(prompt, model=model, **options)

        return self._portal().call(asked)
