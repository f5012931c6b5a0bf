"""Computes jobs side by side, by asking servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from typing import TypeVar

from asteady._base.errors import AnswerCutError, AsteadyError, ModelChangedError, RemoteBusyError
from asteady._base.forks import disown_in_child
from asteady._base.requests import Completion, Embedding, EmbedRequest, Kind
from asteady._engine.api import AnswerEvent, ErrorEvent, Event, Job, SlotId
from asteady._engine.remote.batches import TextBatches
from asteady._engine.remote.body import RemoteJob, body_of
from asteady._engine.remote.client import Client
from asteady._engine.remote.endpoints import Endpoint
from asteady._engine.remote.failures import ServerFailedError, broken
from asteady._engine.remote.identity import OTHER_MODEL_S, Identity, identify
from asteady._engine.remote.loop import PrivateLoop
from asteady._engine.remote.reader import Answering, CompletionReader, embeddings_of
from asteady._engine.remote.reference import Address, RemoteReference

T = TypeVar("T")

# Closing a request is closing its connection.
_RELEASE_S = 2.0
# The end of a stream comes with its last event.
_END_S = 1.0

# Of parents: their selectors are those of the parents too, so they must not be closed.
_disowned: list[PrivateLoop] = []


class RemoteWorker:
    """One event loop and the connections of a model. The loop only runs within the methods."""

    def __init__(
        self,
        reference: RemoteReference,
        kind: Kind,
        identity: Identity,
        requests: int,
        verified: Address | None,
    ) -> None:
        self._reference = reference
        self._kind: Kind = kind
        self._identity = identity
        self._loop = PrivateLoop()
        self._ready = asyncio.Event()
        self._events: list[Event] = []
        self._tasks: dict[SlotId, asyncio.Task[None]] = {}
        self._slots = 0
        try:
            self._client = Client(reference, connections=requests, check=self._verify)
        except BaseException:
            self._loop.close()
            raise
        self._batches = TextBatches(
            self._embed, requests=requests, servers=len(self._client.endpoints)
        )
        self._verifying = {endpoint: asyncio.Lock() for endpoint in self._client.endpoints}
        for endpoint in self._client.endpoints:
            endpoint.verified = endpoint.address == verified
        disown_in_child(self)

    def disown(self) -> None:
        _disowned.append(self._loop)

    def admit(self, job: Job) -> SlotId:
        assert isinstance(job, RemoteJob)
        self._slots += 1
        self._tasks[self._slots] = self._loop.create_task(self._run(self._slots, job))
        return self._slots

    def step(self) -> list[Event]:
        """Wait until there are events, or until `wake` or `interrupt`."""
        self._loop.run_until_complete(self._wait())
        events, self._events = self._events, []
        return events

    async def _wait(self) -> None:
        await self._ready.wait()
        self._ready.clear()

    def release(self, slot: SlotId) -> None:
        # An answer that came while another slot was released has no task any more.
        if (task := self._tasks.pop(slot, None)) is not None:
            self._loop.run_until_complete(self._cancel([task]))
        self._events = [event for event in self._events if event.slot != slot]

    def interrupt(self, slot: SlotId) -> None:
        self.wake()

    def wake(self) -> None:
        with suppress(RuntimeError):  # it is closed
            self._loop.call_soon_threadsafe(self._ready.set)

    def close(self) -> None:
        if self._loop.is_closed():
            return
        try:
            self._loop.run_until_complete(self._close())
        finally:
            self._loop.close()

    async def _close(self) -> None:
        await self._cancel([*self._tasks.values()])
        self._tasks.clear()
        await self._client.aclose()
        await self._loop.shutdown_asyncgens()

    async def _cancel(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_RELEASE_S)

    def _post(self, *events: Event) -> None:
        self._events += events
        self._ready.set()

    async def _run(self, slot: SlotId, job: RemoteJob) -> None:
        event: Event
        try:
            event = AnswerEvent(slot, await self._answer(slot, job))
        except AsteadyError as exc:
            # With what it carries.
            event = ErrorEvent(slot, exc, as_is=True)
        except Exception as exc:
            event = ErrorEvent(slot, exc)
        if self._tasks.pop(slot, None) is not None:  # it was not released meanwhile
            self._post(event)

    async def _answer(self, slot: SlotId, job: RemoteJob) -> Completion | Embedding:
        if isinstance(job.request, EmbedRequest):
            return await self._batches.embed(job)
        return await self._attempt(lambda endpoint: self._generate(endpoint, slot, job))

    async def _attempt(self, use: Callable[[Endpoint], Awaitable[T]]) -> T:
        """What `use` returns for a server that serves this model."""

        async def ask(endpoint: Endpoint) -> T:
            await self._verify(endpoint)
            try:
                return await use(endpoint)
            except ModelChangedError:
                endpoint.verified = False
                raise
            except ServerFailedError as exc:
                if not isinstance(exc.error, RemoteBusyError):
                    endpoint.verified = False
                raise

        return await self._client.attempt(ask)

    async def _verify(self, endpoint: Endpoint) -> None:
        """See that a server serves this model, at first and when it was away."""
        if endpoint.verified:
            return
        async with self._verifying[endpoint]:
            if not endpoint.verified:
                await self._compare(endpoint)

    async def _compare(self, endpoint: Endpoint) -> None:
        own = self._identity
        found = await identify(self._client, endpoint, self._kind, self._reference)
        if (found.fingerprint, found.server) != (own.fingerprint, own.server):
            error = ModelChangedError(
                f"the server at {endpoint.address} has another model, build or CPU by the name "
                f"{own.name!r} than it had, or than the other servers have"
            )
            raise ServerFailedError(error, again=False, after_s=OTHER_MODEL_S)
        endpoint.verified = True

    async def _generate(self, endpoint: Endpoint, slot: SlotId, job: RemoteJob) -> Completion:
        request = job.request
        assert not isinstance(request, EmbedRequest)
        began_s = self._loop.time()
        emitted = False
        where = endpoint.address
        async with self._client.stream(endpoint, job.path, job.body) as stream:
            answering = self._answering(endpoint, job)
            reader = CompletionReader(answering, request, stream.headers, slot)
            try:
                async with aclosing(stream.events) as each:
                    async for data in each:
                        events = reader.read(data)
                        if events:
                            emitted = True
                            self._post(*events)
                        if reader.done:
                            await _read_to_end(each)
                if not reader.ended:
                    error = broken(where, "nothing says why the answer ends")
                    if reader.done:
                        raise error
                    raise ServerFailedError(error, again=True)
            except ServerFailedError as exc:
                if emitted:
                    # Whoever has read some of it cannot go on with what another server says.
                    self._client.set_aside(endpoint, exc, began_s)
                    endpoint.verified = False
                    if not exc.again:
                        raise exc.error from exc
                    raise AnswerCutError(f"the answer was cut in the middle: {exc.error}") from exc
                raise
        events, answer = reader.finish(self._loop.time() - began_s)
        self._post(*events)
        return answer

    async def _embed(self, jobs: Sequence[RemoteJob]) -> list[Embedding]:
        body = body_of(jobs)

        async def ask(endpoint: Endpoint) -> list[Embedding]:
            began_s = self._loop.time()
            reply = await self._client.post(endpoint, jobs[0].path, body)
            cost_s = self._loop.time() - began_s
            answering = [self._answering(endpoint, job) for job in jobs]
            return embeddings_of(answering, reply.content, reply.headers, cost_s)

        return await self._attempt(ask)

    def _answering(self, endpoint: Endpoint, job: RemoteJob) -> Answering:
        return Answering(job, self._identity, endpoint.address, self._reference.text)


async def _read_to_end(events: AsyncIterator[bytes]) -> None:
    """So that the connection can be used again; what is still sent is of no account."""
    with suppress(TimeoutError, ServerFailedError):
        async with asyncio.timeout(_END_S):
            async for _ in events:
                pass
