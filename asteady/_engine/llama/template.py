"""A model's own chat template, rendered in a sandbox.

A template is code that comes with a model file, so it runs in Jinja's immutable sandbox, and
without a clock (`strftime_now` is undefined): the same messages always give the same prompt.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NoReturn, TypeAlias

import attrs
import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from asteady._base.errors import InvalidRequestError, ModelCapabilityError

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
