"""The answers of one request: one for each choice, computed side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeAlias

import attrs

from asteady._base.errors import IncompleteAnswerError
from asteady._base.messages import ToolCall
from asteady._base.requests import Completion, StreamEvent
from asteady._session.generation import Stream
from asteady._session.session import Session
from asteady.server._openai.endpoint import Asked
from asteady.server._web.hang_up import until_hang_up


@attrs.frozen
class Answer:
    """What is told of the answer of a choice. One with a form that was cut has no completion."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    reasoning: str | None = None
    completion: Completion | None = None

    @property
    def tool_calls(self) -> Sequence[ToolCall]:
        return () if self.completion is None else self.completion.tool_calls

    def incomplete(self) -> dict[str, bool]:
        """A field for a choice that does not have its form; no part of OpenAI's API."""
        return {"incomplete": True} if self.completion is None else {}


Found: TypeAlias = StreamEvent | Answer


class Choices:
    """The streams of the choices of one request, open."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._streams = streams

    @classmethod
    async def open(
        cls, asked: Asked, session: Session, arguments: Sequence[Mapping[str, Any]]
    ) -> Choices:
        """Begin to compute one for each of these arguments of `Session.stream`; they are left with
        the request's stack."""
        streams = [
            await asked.stack.enter_async_context(session.stream(**each, cache=asked.mode))
            for each in arguments
        ]
        return cls(streams)

    @property
    def fingerprint(self) -> str:
        return self._streams[0].fingerprint

    @property
    def key(self) -> str:
        return str(self._streams[0].key)

    @property
    def ready(self) -> bool:
        """Whether all answers are in memory: reading them waits for nothing."""
        return all(stream.outcome == "memory" for stream in self._streams)

    def headers(self) -> dict[str, str]:
        """The keys of the answers, and where they come from, which is known for sure when the first
        chunk is there."""
        return {
            "x-asteady-key": ", ".join(str(stream.key) for stream in self._streams),
            "x-asteady-cache": ", ".join(stream.outcome for stream in self._streams),
        }

    async def answers(self, asked: Asked) -> list[Answer]:
        """All of them, whole."""
        if self.ready:
            return await self._read()
        return await until_hang_up(asked.receive, self._read())

    async def _read(self) -> list[Answer]:
        return [await self._answer(index) for index in range(len(self._streams))]

    async def _answer(self, index: int) -> Answer:
        try:
            return _whole(await self._streams[index].read())
        except IncompleteAnswerError as exc:
            return _cut(exc)

    async def events(self) -> AsyncIterator[tuple[int, Found]]:
        """The chunks of all choices with their index, as they are computed, and at the end of each
        its answer."""
        if len(self._streams) == 1:
            async for event in self._events(0):
                yield 0, event
            return
        queue = asyncio.Queue[Any]()

        async def pump(index: int) -> None:
            try:
                async with aclosing(self._events(index)) as events:
                    async for event in events:
                        queue.put_nowait((index, event))
            except Exception as exc:
                queue.put_nowait(exc)

        tasks = [asyncio.create_task(pump(index)) for index in range(len(self._streams))]
        left = len(tasks)
        try:
            while left:
                item = await queue.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                left -= isinstance(item[1], Answer)
        finally:
            for task in tasks:
                task.cancel()

    async def _events(self, index: int) -> AsyncGenerator[Found, None]:
        stream = self._streams[index]
        try:
            async for event in stream.events():
                yield event
        except IncompleteAnswerError as exc:
            yield _cut(exc)
        else:
            yield _whole(stream.answer)


def _whole(completion: Completion) -> Answer:
    return Answer(
        completion.text,
        completion.finish_reason,
        completion.prompt_tokens,
        completion.completion_tokens,
        completion.reasoning,
        completion,
    )


def _cut(exc: IncompleteAnswerError) -> Answer:
    """An answer with a form that has fewer tokens than the form needs."""
    return Answer(exc.text, "length", exc.prompt_tokens, exc.completion_tokens, exc.reasoning)


def usage_of(answers: Sequence[Answer], choices: int) -> dict[str, Any]:
    """The tokens of a request. A prompt counts once for all of its choices."""
    prompt = sum(answer.prompt_tokens for answer in answers[::choices])
    completion = sum(answer.completion_tokens for answer in answers)
    found = [answer.completion for answer in answers if answer.completion is not None]
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": found[0].reused_tokens if found else 0},
        "completion_tokens_details": {
            "reasoning_tokens": sum(completion.reasoning_tokens for completion in found)
        },
    }
