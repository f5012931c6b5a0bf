"""A request's prompt or messages to tokens, with the model's chat template and special tokens.

What a message wrote never becomes a special token: a typed "<|end|>" stays text, whatever type the
vocabulary gives it and whatever the template does to it. Only raw=True lets the caller write
special tokens.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import llama_cpp

from asteady._base.errors import InvalidRequestError, ModelCapabilityError
from asteady._base.messages import is_continued
from asteady._base.requests import DeclaredPrefix, GenerateRequest
from asteady._engine.llama.template import ChatTemplate
from asteady._engine.llama.vocab import Vocab
from asteady._engine.models.thinking_tags import ThinkingTags, tags_of
from asteady._engine.output.call_formats import NEUTRAL, CallFormat, format_of
from asteady._engine.output.tool_prompt import as_plain_messages, without_system

# More than those of any start tag and the white space after it.
_TAIL_TOKENS = 32

# What may be a token in a template: <|im_start|>, <start_of_turn>, [INST], or one made of a role.
_MARKUP = re.compile(r"<[^<>\s'\"]+>|\[[^\[\]\s'\"]+\]")
_ROLE_MARKUP = [f"<|{role}|>" for role in ("system", "developer", "user", "assistant", "tool")]


@attrs.frozen
class Thinking:
    """The tags of a model that may think before it answers, and whether the prompt opened them.

    `hidden` has the texts of the control tokens that tags are made of. `start_token` is the start
    tag's only token; -1 if it is of several.
    """

    tags: ThinkingTags
    hidden: Mapping[int, str]
    start_token: int
    opened: bool


def _source(model: Any, name: bytes | None) -> str | None:
    source = llama_cpp.llama_model_chat_template(model, name)
    # For some models without a template llama.cpp gives the name of one that it has itself.
    return source.decode("utf-8", "replace") if source and b"{" in source else None


class PromptTokenizer:
    """Tokenises prompts for a loaded model; usable from any thread."""

    def __init__(self, model: Any, vocab: Vocab) -> None:
        self._vocab = vocab
        self._source = _source(model, None)
        # Some models have another template for requests with tools.
        self._tool_source = _source(model, b"tool_use") or self._source
        if self._tool_source is not None:
            vocab.expect(_MARKUP.findall(f"{self._source} {self._tool_source}") + _ROLE_MARKUP)
        # A prefix is declared once and used for many prompts.
        self._prefix_tokens = functools.lru_cache(maxsize=16)(self._tokenize_prefix)

    def tokenize(self, request: GenerateRequest) -> list[int]:
        """The prompt's tokens, with one begin-of-text token where the model expects it.

        Raises:
            ModelCapabilityError: messages, and the model has no usable template.
            InvalidRequestError: the template refuses the messages, or there is no token.
        """
        untemplated = request.raw or (self._source is None and not request.tools)
        if request.prompt is not None and untemplated:
            # Without a template a prompt is plain text to continue; special tokens in it are
            # meant only with raw=True.
            if request.raw:
                tokens = self._vocab.tokenize(request.prompt, special=True)
            else:
                tokens = self._vocab.tokenize_message(request.prompt)
        else:
            tokens = self._apply_template(request)
        if self._vocab.add_bos and tokens[:1] != [self._vocab.bos]:
            tokens.insert(0, self._vocab.bos)
        if not tokens:
            raise InvalidRequestError("the prompt is not allowed: it has no tokens")
        return tokens

    @functools.cached_property
    def call_format(self) -> CallFormat:
        """How the model calls tools: as its template says, or else as the neutral prompt does."""
        return self._own_format or NEUTRAL

    @functools.cached_property
    def _own_format(self) -> CallFormat | None:
        return None if self._tool_source is None else format_of(self._tool_source)

    def control_tokens(self, texts: Sequence[str]) -> dict[str, int]:
        """Those of these texts that are control tokens, and their ids."""
        return {text: token for token, text in self._vocab.control_texts_in(texts).items()}

    def thinking(self, request: GenerateRequest, tokens: Sequence[int]) -> Thinking | None:
        """How the answer to these tokens may begin with reasoning; None if it cannot.

        Only a model whose chat template knows thinking tags does, and not with raw=True.
        """
        known = self._thinking
        if known is None or request.raw:
            return None
        tail = b"".join(map(self._vocab.whole_piece, tokens[-_TAIL_TOKENS:]))
        end = tail.decode("utf-8", "replace").rstrip()
        if not end.endswith(known.tags.start):
            return known
        # Some templates write nothing after the messages: what these end with opens nothing.
        given = request.conversation()[-1].content or ""
        typed = given.rstrip().endswith(known.tags.start) and end.endswith(given.rstrip()[-64:])
        return attrs.evolve(known, opened=not typed)

    @functools.cached_property
    def _thinking(self) -> Thinking | None:
        tags = None if self._source is None else tags_of(self._source)
        if tags is None:
            return None
        start = self._vocab.tokenize(tags.start, special=True)
        return Thinking(
            tags=tags,
            hidden=self._vocab.control_texts_in(tags.texts),
            start_token=start[0] if len(start) == 1 else -1,
            opened=False,
        )

    def shared_tokens(
        self, request: GenerateRequest, tokens: Sequence[int], prefix: DeclaredPrefix
    ) -> int:
        """How many of the request's first tokens equal the prefix's tokens."""
        if prefix.text is None:
            return len(tokens)
        try:
            declared = self._prefix_tokens(prefix, request.raw)
        except (InvalidRequestError, ModelCapabilityError):
            return 0  # the template refuses the prefix alone
        pairs = enumerate(zip(declared, tokens, strict=False))
        return next((at for at, (a, b) in pairs if a != b), min(len(declared), len(tokens)))

    def _tokenize_prefix(self, prefix: DeclaredPrefix, raw: bool) -> list[int]:
        if raw:
            return self.tokenize(GenerateRequest.of(prefix.text, raw=True))
        # Many templates refuse a conversation without a user message.
        empty = GenerateRequest.of(messages=[{"role": "user", "content": ""}])
        return self.tokenize(prefix.before(empty))

    def _apply_template(self, request: GenerateRequest) -> list[int]:
        messages = request.conversation()
        for index, message in enumerate(messages):
            if self._vocab.special.find(message.role) is not None:
                raise InvalidRequestError(
                    f"messages[{index}]['role']={message.role!r} is not allowed: it has a special "
                    "token"
                )
        given: list[dict[str, Any]] = [message.for_template() for message in messages]
        tools = [json.loads(tool) for tool in request.tools]
        plainly = self._needs_plain_messages(request)
        template = self._tool_template if request.tools and not plainly else self._template
        render = functools.partial(
            template.render,
            date=datetime.date.fromisoformat(request.date),
            options={name: json.loads(text) for name, text in request.chat_template_kwargs},
            continued=is_continued(messages),
        )
        if plainly:
            plain = as_plain_messages(given, tools)
            try:
                rendered = render(plain)
            except InvalidRequestError:
                without = without_system(plain)
                if without == plain:
                    raise
                rendered = render(without)
        else:
            rendered = render(given, tools=tools or None)
        return self._vocab.tokenize_message(rendered.text, rendered.trusted)

    def _needs_plain_messages(self, request: GenerateRequest) -> bool:
        """Whether the template does not know what the request has of tools."""
        if request.tools:
            return self._own_format is None
        used = any(message.role == "tool" or message.tool_calls for message in request.messages)
        return used and "tool" not in (self._source or "")

    @functools.cached_property
    def _template(self) -> ChatTemplate:
        return self._compiled(self._source)

    @functools.cached_property
    def _tool_template(self) -> ChatTemplate:
        if self._tool_source == self._source:
            return self._template
        return self._compiled(self._tool_source)

    def _compiled(self, source: str | None) -> ChatTemplate:
        if source is None:
            raise ModelCapabilityError(
                "the model has no chat template, which messages and tools need: pass prompt=..., "
                "under a prefix with raw=True"
            )
        vocab = self._vocab
        return ChatTemplate(
            source, vocab.special, bos=vocab.text(vocab.bos), eos=vocab.text(vocab.eos)
        )
