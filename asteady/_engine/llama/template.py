"""A model's chat template, rendered so that its own special tokens are told from the messages'.

A template is code that comes with a model file, so it runs in Jinja's immutable sandbox, and
without a clock (`strftime_now` is undefined): the same messages always give the same prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, NoReturn, TypeAlias

import attrs
import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer

from asteady._base.errors import EngineError, InvalidRequestError, ModelCapabilityError
from asteady._engine.llama.bounded import BoundedEnvironment, TemplateLimitError
from asteady._engine.llama.special import Span, SpecialTexts

Messages: TypeAlias = Sequence[tuple[str, str]]
"""(role, content) pairs."""

# A mark is a lone surrogate, which stands for a piece of text. No message has one.
_FIRST_MARK, _LAST_MARK = "\ud800", "\udfff"
_MARKED = re.compile(f"([{_FIRST_MARK}-{_LAST_MARK}]+)")

# Templates of published models take some hundred steps per message, and write some thousand
# characters besides the messages. A million steps are a second or two.
_MAX_STEPS = 10**6
_MAX_STEPS_PER_MESSAGE = 10**4
_MAX_CHARACTERS = 2**20
_MAX_GROWTH = 4


@attrs.frozen
class Rendered:
    """A prompt, and the spans of special tokens that the template wrote."""

    text: str
    trusted: Sequence[Span]


class _Marks:
    """The pieces of text that marks stand for, as far as there are marks."""

    def __init__(self, pieces: Iterable[str] = ()) -> None:
        self._marks: dict[str, str] = {}
        self._pieces: list[str] = []
        for piece in pieces:
            self.mark(piece)

    def mark(self, piece: str) -> str:
        known = self._marks.get(piece)
        if known is None:
            if len(self._pieces) > ord(_LAST_MARK) - ord(_FIRST_MARK):
                return piece
            known = self._marks[piece] = chr(ord(_FIRST_MARK) + len(self._pieces))
            self._pieces.append(piece)
        return known

    def copy(self) -> _Marks:
        return _Marks(self._pieces)

    def pieces_of(self, marks: str) -> list[str]:
        return [self._pieces[ord(mark) - ord(_FIRST_MARK)] for mark in marks]

    def plain(self, text: str) -> str:
        return _MARKED.sub(lambda found: "".join(self.pieces_of(found[0])), text)


class _Literal(str):
    """A trusted text: as it is where the template looks at it, and with its marks where the
    template writes it or joins it to another text."""

    marked: str

    def __new__(cls, text: str, marked: str | None = None) -> _Literal:
        literal = super().__new__(cls, text)
        # The sandbox makes one of a formatted text, which is not trusted.
        literal.marked = text if marked is None else marked
        return literal

    def __str__(self) -> str:
        return self.marked

    def __format__(self, spec: str) -> str:
        return format(self.marked, spec)

    def __add__(self, other: str) -> str:
        return self.marked + str(other) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> str:
        return other + self.marked

    def __mod__(self, values: object) -> str:
        return self.marked % values


class _RefusedError(Exception):
    """The template called raise_exception."""


class _GenerationTag(Extension):
    """``{% generation %}`` marks the answer for training; here its content is just rendered."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it so

    def parse(self, parser: Parser) -> Any:
        parser.stream.skip(1)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(BoundedEnvironment):
    def __init__(self) -> None:
        super().__init__(
            filters={"tojson": _to_json, "replace": _replace},
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_GenerationTag, loopcontrols],
        )
        self.literals: list[_Literal] = []


class _MarkLiterals(NodeTransformer):
    """Puts the marked text for each literal of a template."""

    def __init__(self, template: ChatTemplate, literals: list[_Literal]) -> None:
        self._template = template
        self._literals = literals

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        node.data = self._template.literal(node.data).marked
        return node

    def visit_Const(self, node: nodes.Const) -> nodes.Node:
        if not isinstance(node.value, str):
            return node
        literal = self._template.literal(node.value)
        if literal.marked == node.value:
            return node
        self._literals.append(literal)
        place = nodes.Const(len(self._literals) - 1)
        return nodes.Getitem(nodes.EnvironmentAttribute("literals"), place, "load")


def _raise_exception(message: str) -> NoReturn:
    raise _RefusedError(message)


def _to_json(value: object, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _replace(value: object, old: str, new: object, count: int = -1) -> str:
    # Jinja's own writes the texts first, which marks them; the old one is to be found as it is.
    text = str(value).replace(old, str(new), count)
    return text.replace(old.marked, str(new), count) if isinstance(old, _Literal) else text


class ChatTemplate:
    """A compiled template; usable from any thread.

    The template's own literals are marked when it is compiled, wherever they have a special token
    or a part of one, and so are the roles. A special token in the result is trusted if it is made
    of marked text only. So whatever a template does to the messages, their text is not; what it
    does to its own special tokens but writing and joining them, as in ``"<|END|>" | lower``, makes
    text of these too.

    Raises:
        ModelCapabilityError: it is not valid Jinja.
    """

    def __init__(self, source: str, special: SpecialTexts, *, bos: str, eos: str) -> None:
        self._special = special
        self._marks = _Marks()
        environment = self._environment = _Environment()
        try:
            parsed = environment.parse(source)
            _MarkLiterals(self, environment.literals).visit(parsed)
            self._template = jinja2.Template.from_code(
                environment, environment.compile(parsed), environment.make_globals(None)
            )
        except jinja2.TemplateError as exc:
            raise ModelCapabilityError(
                f"the model's chat template is not valid ({exc}); pass prompt=..., raw=True"
            ) from exc
        self._variables = {"bos_token": self.literal(bos), "eos_token": self.literal(eos)}

    def literal(self, text: str) -> _Literal:
        """The text with a mark for each special token, and for a part of one at each end."""
        special, mark = self._special, self._marks.mark
        # A literal may be written with surrogates, which are marks here.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if special.is_part(text):
            return _Literal(text, mark(text))
        parts = []
        at = 0
        while (found := special.find(text, at)) is not None:
            start, end = found
            parts += [text[at:start], mark(text[start:end])]
            at = end
        parts.append(text[at:])
        if length := special.unfinished(parts[-1]):
            parts[-1:] = [parts[-1][:-length], mark(parts[-1][-length:])]
        if length := special.unbegun(parts[0]):
            parts[:1] = [mark(parts[0][:length]), parts[0][length:]]
        return _Literal(text, "".join(parts))

    def render(self, messages: Messages) -> Rendered:
        """The prompt for these messages, up to where the answer begins.

        Raises:
            InvalidRequestError: the template refuses them, for example the order of the roles.
            ModelCapabilityError: the template fails.
            EngineError: it was stopped, as it takes too many steps or writes too much.
        """
        given = sum(len(role) + len(content) for role, content in messages)
        marks = self._marks.copy()
        try:
            written = self._environment.render_bounded(
                self._template,
                {
                    "messages": [
                        {"role": _Literal(role, marks.mark(role)), "content": content}
                        for role, content in messages
                    ],
                    "add_generation_prompt": True,
                    "raise_exception": _raise_exception,
                    "tools": None,
                    **self._variables,
                },
                characters=_MAX_CHARACTERS + _MAX_GROWTH * given,
                steps=_MAX_STEPS + _MAX_STEPS_PER_MESSAGE * len(messages),
            )
            return self._resolve(written, marks)
        except _RefusedError as exc:
            raise InvalidRequestError(
                f"the model's chat template refuses these messages: {marks.plain(str(exc))}"
            ) from None
        except TemplateLimitError as exc:
            raise EngineError(
                f"the model's chat template was stopped on these messages: {exc}; pass prompt=..., "
                "raw=True, or use a model with another template"
            ) from None
        # A template is foreign code: it may fail in any way that Python code can.
        except Exception as exc:
            raise ModelCapabilityError(
                f"the model's chat template fails on these messages ({exc!r}); "
                "pass prompt=..., raw=True"
            ) from exc

    def _resolve(self, written: str, marks: _Marks) -> Rendered:
        """The text that was written with marks, and what they tell."""
        texts = []
        trusted: list[Span] = []
        at = 0
        for index, part in enumerate(_MARKED.split(written)):
            if index % 2:
                pieces = marks.pieces_of(part)
                part = "".join(pieces)
                bounds = dict.fromkeys([0, *accumulate(map(len, pieces))])
                done = 0
                for start in bounds:
                    end = self._special.end_at(part, start) if start >= done else None
                    # It may begin and end in the template's text only, not inside a role.
                    if end in bounds:
                        trusted.append((at + start, at + end))
                        done = end
            texts.append(part)
            at += len(part)
        return Rendered("".join(texts), trusted)
