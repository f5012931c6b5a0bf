"""A request's prompt or messages to tokens, with the model's chat template and control tokens.

Text from the user never becomes a control token: a typed "<|end|>" stays text. Only raw=True lets
the user write control tokens.

A template is code that comes with a model file, so it runs in Jinja's immutable sandbox, and
without a clock (`strftime_now` is undefined): the same messages always give the same prompt.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any, NoReturn, TypeAlias

import attrs
import jinja2
import llama_cpp
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from asteady._base.errors import InvalidRequestError, ModelCapabilityError
from asteady._base.requests import DeclaredPrefix, GenerateRequest
from asteady._engine.llama.vocab import Vocab

Messages: TypeAlias = Sequence[tuple[str, str]]
"""(role, content) pairs."""


@attrs.frozen
class Segment:
    """A part of a rendered prompt; `trusted` when it is the template's text, not the user's."""

    text: str
    trusted: bool


class _RefusedError(Exception):
    """The template called raise_exception."""


class _GenerationTag(Extension):
    """``{% generation %}`` marks the answer for training; here its content is just rendered."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it so

    def parse(self, parser: Parser) -> Any:
        parser.stream.skip(1)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> NoReturn:
    raise _RefusedError(message)


def _to_json(value: object, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


class ChatTemplate:
    """A compiled template; usable from any thread.

    Raises:
        ModelCapabilityError: it is not valid Jinja.
    """

    def __init__(self, source: str, *, bos: str, eos: str) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as exc:
            raise ModelCapabilityError(
                f"the model's chat template is not valid ({exc}); pass prompt=..., raw=True"
            ) from exc
        self._special = {"bos_token": bos, "eos_token": eos}

    def render(self, messages: Messages) -> str:
        """The prompt for these messages, up to where the answer begins.

        Raises:
            InvalidRequestError: the template refuses them, for example the order of the roles.
            ModelCapabilityError: the template fails.
        """
        try:
            return self._template.render(
                messages=[{"role": role, "content": content} for role, content in messages],
                add_generation_prompt=True,
                raise_exception=_raise_exception,
                tools=None,
                **self._special,
            )
        except _RefusedError as exc:
            raise InvalidRequestError(
                f"the model's chat template refuses these messages: {exc}"
            ) from None
        # A template is foreign code: it may fail in any way that Python code can.
        except Exception as exc:
            raise ModelCapabilityError(
                f"the model's chat template fails on these messages ({exc!r}); "
                "pass prompt=..., raw=True"
            ) from exc

    def segments(self, messages: Messages) -> list[Segment] | None:
        """The rendered prompt, split into the template's text and the messages' content.

        None when the template changes the content, so that the two cannot be told apart.
        """
        whole = self.render(messages)
        # The contents are replaced by a number between two marks: a private-use character that is
        # in no message.
        taken = {char for _, content in messages for char in content}
        mark = next(chr(code) for code in range(0xF0000, 0xFFFFE) if chr(code) not in taken)
        try:
            marked = self.render(
                [(role, f"{mark}{index}{mark}") for index, (role, _) in enumerate(messages)]
            )
        except (InvalidRequestError, ModelCapabilityError):
            return None
        parts = marked.split(mark)
        for change in (str, str.strip):
            segments = []
            for place, part in enumerate(parts):
                if place % 2 == 0:
                    segments.append(Segment(part, trusted=True))
                elif part.isdecimal() and int(part) < len(messages):
                    segments.append(Segment(change(messages[int(part)][1]), trusted=False))
            if "".join(segment.text for segment in segments) == whole:
                return [segment for segment in segments if segment.text]
        return None


class PromptTokenizer:
    """Tokenises prompts for a loaded model; usable from any thread."""

    def __init__(self, model: Any, vocab: Vocab) -> None:
        self._vocab = vocab
        source = llama_cpp.llama_model_chat_template(model, None)
        self._source: str | None = source.decode("utf-8", "replace") if source else None
        # A prefix is declared once and used for many prompts.
        self._prefix_tokens = functools.lru_cache(maxsize=16)(self._tokenize_prefix)

    def tokenize(self, request: GenerateRequest) -> list[int]:
        """The prompt's tokens, with one begin-of-text token where the model expects it.

        Raises:
            ModelCapabilityError: messages, and the model has no usable template.
            InvalidRequestError: the template refuses the messages, or there is no token.
        """
        if request.prompt is not None and (request.raw or self._source is None):
            # Without a template a prompt is plain text to continue; control tokens in it are
            # meant only with raw=True.
            tokens = self._vocab.tokenize(request.prompt, special=request.raw)
        else:
            prompt = request.prompt
            messages = request.messages if prompt is None else (("user", prompt),)
            tokens = self._apply_template(messages)
        if self._vocab.add_bos and tokens[:1] != [self._vocab.bos]:
            tokens.insert(0, self._vocab.bos)
        if not tokens:
            raise InvalidRequestError("the prompt is not allowed: it has no tokens")
        return tokens

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

    def _apply_template(self, messages: Messages) -> list[int]:
        for index, (role, _) in enumerate(messages):
            if self._control_tokens(role):
                raise InvalidRequestError(
                    f"messages[{index}]['role']={role!r} is not allowed: it has a control token"
                )
        whole = self._vocab.tokenize(self._template.render(messages), special=True)
        if not any(self._control_tokens(content) for _, content in messages):
            return whole
        segments = self._template.segments(messages)
        if segments is not None:
            return [
                token
                for segment in segments
                for token in self._vocab.tokenize(segment.text, special=segment.trusted)
            ]
        # The template changes the content, so its own text cannot be told from the user's.
        # A space inside each control token keeps the text readable and makes it plain text.
        split = [(role, self._split_control_tokens(content)) for role, content in messages]
        return self._vocab.tokenize(self._template.render(split), special=True)

    @functools.cached_property
    def _template(self) -> ChatTemplate:
        if self._source is None:
            raise ModelCapabilityError(
                "the model has no chat template, which messages need: pass prompt=... instead, "
                "under a prefix with raw=True"
            )
        vocab = self._vocab
        return ChatTemplate(self._source, bos=vocab.text(vocab.bos), eos=vocab.text(vocab.eos))

    def _control_tokens(self, content: str) -> list[int]:
        """The control tokens that this text would become if it were trusted."""
        tokens = self._vocab.tokenize(content, special=True)
        return [token for token in dict.fromkeys(tokens) if self._vocab.is_control(token)]

    def _split_control_tokens(self, content: str) -> str:
        while found := self._control_tokens(content):
            for token in found:
                text = self._vocab.text(token)
                apart = f"{text[0]} {text[1:]}" if len(text) > 1 else ""
                content = content.replace(text, apart)
        return content
