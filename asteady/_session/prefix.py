"""A declared prefix: the text that many prompts begin with, whose state is computed once."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable

from asteady._base.declared import DeclaredPrefix
from asteady._base.requests import Completion, GenerateOptions, GenerateRequest
from asteady._session.calls import Generating
from asteady._session.pipeline import CacheMode


class Prefix(Generating):
    """The calls that generate, with a text before each prompt; from `Session.prefix`.

    ::

        chat = session.prefix(system_prompt)
        text = await chat.generate("What do I do when the queue is full?")

    It costs nothing to construct, holds nothing that must be closed, and can be used as long as its
    session. Two with one text are the same prefix.
    """

    def __init__(self, asking: Generating, text: str) -> None:
        self._prefix = self._declared = DeclaredPrefix.of(text)
        self.text = text
        self._asking = asking
        self._core = asking._core
        self._observers = asking._observers
        self._generation = asking._generation
        self._recall_completion = self._recall
        self._digest = hashlib.sha256(text.encode()).hexdigest()

    def __repr__(self) -> str:
        return f"<Prefix of {len(self.text)} characters, of {self._asking!r}>"

    def alias(self, alias: Hashable) -> tuple[object, ...]:
        """What the answer to a call with these raw arguments is found by in memory."""
        # The text itself would be counted as a part of each alias.
        return self._digest, alias

    def _recall(self, alias: Hashable) -> Completion | None:
        return self._asking._recall_completion(self.alias(alias))

    def _generate_request(
        self, call: str, prompt: str | None, options: GenerateOptions
    ) -> GenerateRequest:
        return self._prefix.before(super()._generate_request(call, prompt, options))

    async def _complete(
        self,
        prompt: str | None,
        model: str | None,
        cache: CacheMode,
        options: GenerateOptions,
        alias: Hashable,
    ) -> Completion:
        if alias is not None:
            alias = self.alias(alias)
        return await super()._complete(prompt, model, cache, options, alias)
