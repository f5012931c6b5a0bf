"""A model's own chat template, rendered in a sandbox.

A template is code that came with a model file, so it runs in Jinja's immutable sandbox, with no
clock (`strftime_now` stays undefined): the same messages always make the same prompt.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NoReturn

import attrs
import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from asteady._base.errors import InvalidRequestError, ModelCapabilityError

Messages = Sequence[tuple[str, str]]


@attrs.frozen
class Segment:
    """A stretch of a rendered prompt: `trusted` when the template wrote it, not the user."""

    text: str
    trusted: bool


class _Refused(Exception):
    """The template called raise_exception."""


class _GenerationTag(Extension):
    """``{% generation %}`` marks an answer for training; here its content is just rendered."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it so

    def parse(self, parser: Parser) -> Any:
        parser.stream.skip(1)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> NoReturn:
    raise _Refused(message)


def _to_json(value: object, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


class ChatTemplate:
    """A compiled template; any thread, as long as its model.

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
                f"the model's chat template cannot be read ({exc}); pass prompt=..., raw=True"
            ) from exc
        self._special = {"bos_token": bos, "eos_token": eos}

    def render(self, messages: Messages) -> str:
        """The prompt that these (role, content) pairs make, up to where the answer begins.

        Raises:
            InvalidRequestError: the template refuses them, such as for the order of the roles.
            ModelCapabilityError: the template fails.
        """
        try:
            return self._template.render(
                messages=[{"role": role, "content": content} for role, content in messages],
                add_generation_prompt=True,
                raise_exception=_refuse,
                tools=None,
                **self._special,
            )
        except _Refused as exc:
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
        """The rendered prompt cut into what the template wrote and what the messages say.

        None when that cannot be told, because the template changes the messages' content.
        """
        whole = self.render(messages)
        # Private-use characters that no message contains, so that they can be found again.
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
