"""Tokens of prompts and texts, off the event loop and without a worker."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import TypeVar

from asteady._base.tasks import run_in_daemon
from asteady._engine.api import Tokenizer
from asteady._engine.preparer import Preparer

T = TypeVar("T")

AskTokenizer = Callable[[Tokenizer], T]
"""What is found with a tokenizer, on one of its threads."""


class TokenCounter:
    """A tokenizer and the threads that use it, until `close`, which closes it."""

    def __init__(self, tokenizer: Tokenizer, close: Callable[[], None]) -> None:
        self._tokenizer = tokenizer
        self._close_tokenizer = close
        self._preparer = Preparer()

    def ask_tokenizer(self, ask: AskTokenizer[T], characters: int) -> asyncio.Future[T]:
        """What `ask` finds in a text of so many characters. Cancelling stops waiting.

        Raises as `ask` does, and SessionClosedError after `close`.
        """
        return self._preparer.submit(functools.partial(ask, self._tokenizer), characters)

    def close(self) -> asyncio.Future[None]:
        """Refuse more, and close the tokenizer when no thread uses it any more.

        It begins at once; cancelling stops waiting.
        """
        return run_in_daemon("asteady-close", self._close)

    def _close(self) -> None:
        for thread in self._preparer.close():
            thread.join()
        self._close_tokenizer()
