"""Tokens of prompts and texts, off the event loop and without a worker."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import TypeVar

from asteady._base.requests import characters_of
from asteady._base.tasks import run_in_daemon
from asteady._engine.api import Request, Tokenizer
from asteady._engine.preparer import Preparer

T = TypeVar("T")

OfTokens = Callable[[Tokenizer, list[int]], T]
"""What is made of a request's tokens, on the thread that found them."""


def of_tokens(tokenizer: Tokenizer, request: Request, make: OfTokens[T]) -> T:
    return make(tokenizer, tokenizer.tokenize(request))


class TokenCounter:
    """A tokenizer and the threads that use it, until `close`, which closes it."""

    def __init__(self, tokenizer: Tokenizer, close: Callable[[], None]) -> None:
        self._tokenizer = tokenizer
        self._close_tokenizer = close
        self._preparer = Preparer()

    def tokens(self, request: Request, make: OfTokens[T]) -> asyncio.Future[T]:
        """What `make` makes of the tokens. Cancelling stops waiting.

        Raises as `Tokenizer.tokenize` does, and SessionClosedError after `close`.
        """
        find = functools.partial(of_tokens, self._tokenizer, request, make)
        return self._preparer.submit(find, characters_of(request))

    def close(self) -> asyncio.Future[None]:
        """Refuse more, and close the tokenizer when no thread uses it any more.

        It begins at once; cancelling stops waiting.
        """
        return run_in_daemon("asteady-close", self._close)

    def _close(self) -> None:
        for thread in self._preparer.close():
            thread.join()
        self._close_tokenizer()
