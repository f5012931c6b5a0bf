"""A model's chat template, rendered so that its own special tokens are told from the messages'.

A template is code that comes with a model file, so it runs in Jinja's immutable sandbox, and
without a clock (`strftime_now` tells the date that the request gives): the same messages always
give the same prompt. What it can call is what `transformers` has for it.
"""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date as Date
from itertools import accumulate
from typing import Any, NoReturn, TypeAlias

import attrs
import jinja2
from jinja2 import nodes, pass_environment
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.visitor import NodeTransformer

from asteady._base.errors import (
    EngineError,
    InvalidRequestError,
    ModelCapabilityError,
    SessionClosedError,
)
from asteady._base.rendering import DEFAULT_DATE
from asteady._engine.llama.bounded import BoundedEnvironment, TemplateLimitError
from asteady._engine.llama.special import Span, SpecialTexts

Messages: TypeAlias = Sequence[Mapping[str, Any]]
"""As chat templates take them: role, content, and where they have it name, tool_calls (whose
function has the arguments as a mapping), tool_call_id and reasoning_content."""

_DEFAULT_DATE = Date.fromisoformat(DEFAULT_DATE)

# A mark is a lone surrogate, which stands for a piece of text. No message has one.
_FIRST_MARK, _LAST_MARK = "\ud800", "\udffe"
# Written behind the text that is continued; the space tells whether the template strips it.
_CUT = "\udfff"
_CUT_HERE = _CUT + " "
_MARKED = re.compile(f"([{_FIRST_MARK}-{_LAST_MARK}]+)")

# Longer than ten times the longest of 71 published templates; a compiler is not to be bounded.
_MAX_SOURCE_CHARACTERS = 2**18
# Of 71 published templates, none takes more than 9,000 steps per message of 2,000, a quarter of a
# step per character of a long one, nor writes more than 800 characters besides each message. A
# million steps are about a second.
_MAX_STEPS = 10**6
_MAX_STEPS_PER_MESSAGE = 10**4
_MAX_CHARACTERS = 2**20
_MAX_CHARACTERS_PER_MESSAGE = 2000
_MAX_GROWTH = 4
_MAX_INDENT = 16
# In no template; some write not all of a text, or in capitals.
_PROBE = "zqxj zqxj zqxj"
_MAX_DATE_CHARACTERS = 1000
_MAX_REASON_CHARACTERS = 1000

# Python's strftime writes these in the language of the process.
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
_DIRECTIVE = re.compile(r"%([-_0^]?)([a-zA-Z%])")


# Methods of texts that look for their first argument.
_ASKING = frozenset({"count", "endswith", "startswith"})
_SEARCHING = frozenset(
    {"partition", "removeprefix", "removesuffix", "replace", "rpartition", "rsplit", "split"}
)


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
        if text.isascii():  # known at once
            return text
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


class _Current(threading.local):
    """The marks of what this thread renders."""

    def __init__(self) -> None:
        self.marks = _Marks()


class _Environment(BoundedEnvironment):
    """A template writes marks, and looks at texts without them."""

    def __init__(self) -> None:
        super().__init__(
            filters={
                "tojson": _to_json,
                "replace": _replace,
                **dict.fromkeys(["length", "count"], _length),
            },
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_GenerationTag, loopcontrols],
        )
        self.literals: list[_Literal] = []
        self._current = _Current()

    def use_marks(self, marks: _Marks) -> None:
        """In what this thread renders from now on."""
        self._current.marks = marks

    def compared(self, value: Any) -> Any:
        return self._current.marks.plain(value) if isinstance(value, str) else value

    def to_search(self, text: str, looked_for: Any) -> tuple[str, Any]:
        """What is looked for as it is, and a text in which it has no marks."""
        plain = self.compared(looked_for)
        marked = str(looked_for)
        changed = isinstance(looked_for, str) and marked != plain
        return text.replace(marked, plain) if changed else text, plain

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        # jinja2 calls it so, since a template may name its arguments as it likes.
        subject = getattr(__obj, "__self__", None)
        if isinstance(subject, str) and args:
            name = __obj.__name__
            if name in _ASKING:
                __obj = getattr(__self.compared(subject), name)
                args = (__self.compared(args[0]), *args[1:])
            elif name in _SEARCHING:
                text, looked_for = __self.to_search(subject, args[0])
                __obj = getattr(text, name)
                args = (looked_for, *args[1:])
        return super().call(__context, __obj, *args, **kwargs)


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


def _shortened(reason: str) -> str:
    return (
        reason if len(reason) <= _MAX_REASON_CHARACTERS else f"{reason[:_MAX_REASON_CHARACTERS]}..."
    )


def _raise_exception(message: str) -> NoReturn:
    raise _RefusedError(message)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    wide = len(indent) if isinstance(indent, str) else indent or 0
    if wide > _MAX_INDENT:
        raise TemplateLimitError(f"it indents JSON by more than {_MAX_INDENT} characters")
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators and tuple(map(_plain, separators)),  # type: ignore[arg-type]  # two
        sort_keys=sort_keys,
    )


def _plain(text: str) -> str:
    return str.__str__(text)


def _strftime_now(date: Date) -> Callable[[str], str]:
    """`strftime` of the first second of that day, as the C library writes it in English, whatever
    the language of the process is."""
    day, month = _WEEKDAYS[date.weekday()], _MONTHS[date.month - 1]
    texts = {
        "a": day[:3],
        "A": day,
        "b": month[:3],
        "h": month[:3],
        "B": month,
        "c": f"{day[:3]} {month[:3]} {date.day:2} 00:00:00 {date.year:04}",
        "D": f"{date:%m/%d/%y}",
        "x": f"{date:%m/%d/%y}",
        "F": f"{date:%Y-%m-%d}",
        "T": "00:00:00",
        "X": "00:00:00",
        "R": "00:00",
        "r": "12:00:00 AM",
        "p": "AM",
        "P": "am",
        "Z": "",
        "z": "",
        "f": "000000",
        "%": "%",
        "n": "\n",
        "t": "\t",
    }
    numbers = {name: date.strftime(f"%{name}") for name in "dmyYHIMSjUWuwVGgC"}
    numbers |= {"e": f"{date.day:2}", "k": " 0", "l": "12"}

    def written(found: re.Match[str]) -> str:
        flag, name = found[1], found[2]
        if name in texts:
            return texts[name].upper() if flag == "^" else texts[name]
        number = numbers.get(name)
        if number is None:
            return found[0]
        if flag in ("-", "_", "0"):
            digits = number.strip(" ").lstrip("0") or "0"
            return digits if flag == "-" else digits.rjust(len(number), "0 "[flag == "_"])
        return number

    def strftime_now(format: str) -> str:
        if len(format) > _MAX_DATE_CHARACTERS:
            raise TemplateLimitError(
                f"it writes a date of more than {_MAX_DATE_CHARACTERS:,} characters"
            )
        return _DIRECTIVE.sub(written, str(format))

    return strftime_now


@pass_environment
def _replace(
    environment: _Environment, value: object, old: str, new: object, count: int = -1
) -> str:
    # Jinja's own writes the texts first, which marks them.
    text, old = environment.to_search(str(value), old)
    return text.replace(old, str(new), count)


@pass_environment
def _length(environment: _Environment, value: Any) -> int:
    return len(environment.compared(value))


def _size(value: Any) -> int:
    """The characters of all texts in plain data."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_size(key) + _size(item) for key, item in value.items())
    if isinstance(value, Sequence):
        return sum(map(_size, value))
    return 0


def _with_arguments_as_json(message: Mapping[str, Any]) -> Mapping[str, Any]:
    calls = [
        {
            **call,
            "function": {
                **call["function"],
                "arguments": _to_json(call["function"]["arguments"]),
            },
        }
        for call in message.get("tool_calls", ())
    ]
    return {**message, "tool_calls": calls} if calls else message


def _cut(written: str, last: Mapping[str, Any]) -> str:
    """What was written up to the end of the text that is continued."""
    end = written.rfind(_CUT)
    if end < 0 or last["content"].strip() not in written:
        raise _RefusedError(
            "it does not write the last message as it is, so it cannot be continued"
        )
    if written.startswith(_CUT_HERE, end):
        return written[:end]
    return written[:end].rstrip()  # the template strips texts


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
        if len(source) > _MAX_SOURCE_CHARACTERS:
            raise ModelCapabilityError(
                f"the model's chat template is not valid (it has more than "
                f"{_MAX_SOURCE_CHARACTERS:,} characters); pass prompt=..., raw=True"
            )
        try:
            parsed = environment.parse(source)
            _MarkLiterals(self, environment.literals).visit(parsed)
            self._template = jinja2.Template.from_code(
                environment, environment.compile(parsed), environment.make_globals(None)
            )
        # Also a RecursionError, or a SyntaxError of what Jinja makes of it.
        except Exception as exc:
            raise ModelCapabilityError(
                f"the model's chat template is not valid ({_shortened(str(exc))}); "
                "pass prompt=..., raw=True"
            ) from exc
        self._variables = {
            "bos_token": self.literal(bos),
            "eos_token": self.literal(eos),
            "raise_exception": _raise_exception,
            "documents": None,
        }

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

    def render(
        self,
        messages: Messages,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        date: Date = _DEFAULT_DATE,
        options: Mapping[str, Any] | None = None,
        continued: bool = False,
    ) -> Rendered:
        """The prompt for these messages, up to where the answer begins.

        `tools` are definitions as OpenAI's API has them. `options` are more variables for the
        template, such as ``enable_thinking``. With `continued`, the last message is the beginning
        of the answer, and the prompt ends with its text.

        Raises:
            InvalidRequestError: the template refuses them, for example the order of the roles, or
                does not write the text that is to be continued.
            ModelCapabilityError: the template fails.
            EngineError: it was stopped, as it takes too many steps or writes too much.
        """
        return self._render(messages, self._takes_parts, tools, date, options or {}, continued)

    @functools.cached_property
    def _takes_parts(self) -> bool:
        """Whether it writes a text only if it is given as a list with one part."""
        try:
            return not self._writes_probe(False) and self._writes_probe(True)
        except EngineError:  # stopped, as it will be again
            return False

    def _writes_probe(self, as_parts: bool) -> bool:
        messages = [{"role": "user", "content": _PROBE}]
        try:
            text = self._render(messages, as_parts, None, _DEFAULT_DATE, {}, False).text
        except (InvalidRequestError, ModelCapabilityError):
            return False
        return "zqxj" in text.lower() and "'type'" not in text

    def _render(
        self,
        messages: Messages,
        as_parts: bool,
        tools: Sequence[Mapping[str, Any]] | None,
        date: Date,
        options: Mapping[str, Any],
        continued: bool,
    ) -> Rendered:
        given = _size([messages, tools or (), options])
        marks = self._marks.copy()

        def write(messages: Messages) -> str:
            self._environment.use_marks(marks)
            return self._environment.render_bounded(
                self._template,
                {
                    **options,
                    "messages": self._for_template(messages, marks, as_parts, continued),
                    "tools": tools and list(tools),
                    "add_generation_prompt": not continued,
                    "strftime_now": _strftime_now(date),
                    **self._variables,
                },
                characters=_MAX_CHARACTERS
                + _MAX_GROWTH * given
                + _MAX_CHARACTERS_PER_MESSAGE * len(messages),
                steps=_MAX_STEPS + given + _MAX_STEPS_PER_MESSAGE * len(messages),
            )

        try:
            try:
                written = write(messages)
            except (TypeError, jinja2.UndefinedError):
                if not any("tool_calls" in message for message in messages):
                    raise
                # Some templates take the arguments of tool calls as JSON.
                written = write([_with_arguments_as_json(message) for message in messages])
            if continued:
                written = _cut(written, messages[-1])
            if _CUT in written:
                raise ValueError("it writes a lone surrogate")
            return self._resolve(written, marks)
        except _RefusedError as exc:
            raise InvalidRequestError(
                f"the model's chat template refuses these messages: "
                f"{_shortened(marks.plain(str(exc)))}"
            ) from None
        except TemplateLimitError as exc:
            raise EngineError(
                f"the model's chat template was stopped on these messages: {exc}; pass prompt=..., "
                "raw=True, or use a model with another template"
            ) from None
        except SessionClosedError:
            raise  # nobody waits any more
        # A template is foreign code: it may fail in any way that Python code can.
        except Exception as exc:
            raise ModelCapabilityError(
                f"the model's chat template fails on these messages ({_shortened(repr(exc))}); "
                "pass prompt=..., raw=True"
            ) from exc

    def _for_template(
        self, messages: Messages, marks: _Marks, as_parts: bool, continued: bool
    ) -> list[dict[str, Any]]:
        found = []
        for message in messages:
            role: str = message["role"]
            trusted = {"role": _Literal(role, marks.mark(role))}
            # Beside tool calls there may be no content, for which many templates are not made.
            found.append({**message, **trusted, "content": message.get("content") or ""})
            if "reasoning_content" in message:  # what some templates call it
                found[-1]["thinking"] = message["reasoning_content"]
        if continued:
            found[-1]["content"] += _CUT_HERE
        if as_parts:
            for message in found:
                message["content"] = [{"type": "text", "text": message["content"]}]
        return found

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
