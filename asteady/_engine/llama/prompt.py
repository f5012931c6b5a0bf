"""A request's prompt or messages to tokens, with the model's template and its control tokens.

What a user wrote never becomes a control token ("<|end|>" typed by a user stays text), unless the
user asked for the raw prompt and so writes the control tokens himself.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import llama_cpp

from asteady._base.errors import InvalidRequestError, ModelCapabilityError
from asteady._base.requests import DeclaredPrefix, GenerateRequest
from asteady._engine.llama.template import ChatTemplate, Messages
from asteady._engine.llama.vocab import Vocab


class Prompter:
    """The template and vocabulary of a loaded model; any thread."""

    def __init__(self, model: Any, vocab: Vocab) -> None:
        self._vocab = vocab
        source = llama_cpp.llama_model_chat_template(model, None)
        self._source: str | None = source.decode("utf-8", "replace") if source else None
        self._eos: int = llama_cpp.llama_vocab_eos(llama_cpp.llama_model_get_vocab(model))
        self._template: ChatTemplate | None = None
        # Prefixes are declared for many prompts each.
        self._declared = functools.lru_cache(maxsize=16)(self._declare)

    def tokens(self, request: GenerateRequest) -> list[int]:
        """The prompt's tokens, with the token that begins a text exactly where the model wants it.

        Raises:
            ModelCapabilityError: messages, and the model has no usable template.
            InvalidRequestError: the template refuses the messages, or no token results.
        """
        if request.prompt is not None and (request.raw or self._source is None):
            # Without a template a prompt is plain text to continue; only raw=True says that
            # control tokens in it are meant.
            tokens = self._vocab.tokenize(request.prompt, special=request.raw)
        else:
            prompt = request.prompt
            messages = request.messages if prompt is None else (("user", prompt),)
            tokens = self._applied(messages)
        if self._vocab.add_bos and tokens[:1] != [self._vocab.bos]:
            tokens.insert(0, self._vocab.bos)
        if not tokens:
            raise InvalidRequestError("the prompt is not allowed: the model makes no token of it")
        return tokens

    def shared(
        self, request: GenerateRequest, tokens: Sequence[int], prefix: DeclaredPrefix
    ) -> int:
        """How many of the request's tokens are the prefix's, or are so for another reason."""
        if prefix.text is None:
            return len(tokens)
        try:
            declared = self._declared(prefix, request.raw)
        except (InvalidRequestError, ModelCapabilityError):
            return 0  # Where the template refuses the prefix with nothing after it.
        pairs = enumerate(zip(declared, tokens, strict=False))
        return next((at for at, (a, b) in pairs if a != b), min(len(declared), len(tokens)))

    def _declare(self, prefix: DeclaredPrefix, raw: bool) -> list[int]:
        if raw:
            return self.tokens(GenerateRequest.of(prefix.text, raw=True))
        # Many templates want somebody to answer to.
        nothing = GenerateRequest.of(messages=[{"role": "user", "content": ""}])
        return self.tokens(prefix.before(nothing))

    def _applied(self, messages: Messages) -> list[int]:
        template = self._compiled()
        for index, (role, _) in enumerate(messages):
            if self._control_in(role):
                raise InvalidRequestError(
                    f"messages[{index}]['role']={role!r} is not allowed: it holds a control token"
                )
        whole = self._vocab.tokenize(template.render(messages), special=True)
        if not any(self._control_in(content) for _, content in messages):
            return whole
        segments = template.segments(messages)
        if segments is not None:
            return [
                token
                for segment in segments
                for token in self._vocab.tokenize(segment.text, special=segment.trusted)
            ]
        # The template changes what the messages say, so what came from them cannot be told from
        # what it wrote. A space inside keeps the text readable and makes it text.
        broken = [(role, self._broken(content)) for role, content in messages]
        return self._vocab.tokenize(template.render(broken), special=True)

    def _compiled(self) -> ChatTemplate:
        if self._source is None:
            raise ModelCapabilityError(
                "the model has no chat template, which messages need: pass prompt=... instead, "
                "under a prefix with raw=True"
            )
        if self._template is None:
            vocab = self._vocab
            self._template = ChatTemplate(
                self._source, bos=vocab.text(vocab.bos), eos=vocab.text(self._eos)
            )
        return self._template

    def _control_in(self, content: str) -> list[int]:
        """The control tokens that this text would become if it were trusted."""
        tokens = self._vocab.tokenize(content, special=True)
        return [token for token in dict.fromkeys(tokens) if self._vocab.is_control(token)]

    def _broken(self, content: str) -> str:
        while found := self._control_in(content):
            for token in found:
                text = self._vocab.text(token)
                apart = f"{text[0]} {text[1:]}" if len(text) > 1 else ""
                content = content.replace(text, apart)
        return content
