"""Messages of a conversation, in canonical form.

`messages_of` takes what OpenAI's chat API takes. Two ways to say the same thing (a text, or a list
with one part of it; arguments of a tool call as JSON or as a mapping) become equal records.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, Protocol, TypeAlias, TypeVar, overload

import attrs

from asteady._base import validation
from asteady._base.errors import InvalidRequestError, PromptTooLongError
from asteady._base.functions import typed_arguments
from asteady._base.public import public
from asteady._base.records import Record, plain
from asteady._base.validation import refuse

T = TypeVar("T")


def _plain_part(value: object) -> object:
    if isinstance(value, set | frozenset):
        raise TypeError("a set has no order, so the next request would not be the same: sort it")
    return plain(value)


logger = logging.getLogger("asteady")

# A message is four tokens or more.
MAX_MESSAGES = 100_000
# Less than what json and a template may recurse.
_MAX_DEPTH = 100
# What `messages_of` takes, for the documentation of a web API.
_JSON_SCHEMA = """{
    "title": "Message",
    "description": "One message of a conversation, as OpenAI's chat API has it.",
    "type": "object",
    "properties": {
        "role": {"type": "string"},
        "content": {"anyOf": [
            {"type": "string"},
            {"type": "array", "items": {
                "type": "object",
                "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                "required": ["type", "text"]
            }},
            {"type": "null"}
        ]},
        "name": {"type": "string"},
        "tool_calls": {"type": "array", "items": {
            "type": "object",
            "properties": {
                "id": {"type": "string"},
                "type": {"const": "function"},
                "function": {
                    "type": "object",
                    "properties": {"name": {"type": "string"}, "arguments": {"type": "string"}},
                    "required": ["name", "arguments"]
                }
            },
            "required": ["function"]
        }},
        "tool_call_id": {"type": "string"},
        "reasoning_content": {"type": "string"}
    },
    "required": ["role"]
}"""


@public
class HasModelDump(Protocol):
    """An object of pydantic's, such as a message of OpenAI's client."""

    def model_dump(self) -> Mapping[str, Any]: ...


@public
@attrs.frozen(kw_only=True)
class ToolCall(Record):
    """A call of a tool that the assistant asks for; in `Completion.tool_calls`, and in messages.

    `arguments_json` is a JSON object; `arguments` is what it says. The `id` of a call in an answer
    has 9 characters and is made of the answer's key and the call's place, so it is always the same.
    """

    name: str
    arguments_json: str
    id: str | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments as JSON says; a new mapping each time."""
        found: dict[str, Any] = json.loads(self.arguments_json)
        return found

    @overload
    def arguments_for(self, tool: type[T]) -> T: ...  # type: ignore[overload-overlap]  # a class is called too

    @overload
    def arguments_for(self, tool: Callable[..., Any] | Mapping[str, Any]) -> dict[str, Any]: ...

    def arguments_for(self, tool: Any) -> Any:
        """The arguments, validated and typed for the function or class that `tools` had::

            for call in answer.tool_calls:
                result = weather(**call.arguments_for(weather))

        For a class, such as a pydantic model, an instance; for a function its keyword arguments.
        With pydantic installed their types are the annotated ones; without it they are as JSON
        says, which is the same for all types that need no pydantic.

        Raises:
            InvalidRequestError: they do not fit its parameters.
            pydantic.ValidationError: likewise, if pydantic is installed.
        """
        return typed_arguments(tool, self.arguments)

    def message(self, result: object) -> dict[str, Any]:
        """The message, of the role "tool", that answers this call in the next turn.

        A `result` that is no str is written as JSON: also data classes, models, dates and the like
        (those need pydantic).

        Raises:
            InvalidRequestError: JSON cannot have it.
        """
        if isinstance(result, str):
            content = result
        elif callable(dump := getattr(result, "model_dump_json", None)):
            content = dump()
        else:
            try:
                content = json.dumps(
                    result, ensure_ascii=False, allow_nan=False, default=_plain_part
                )
            except (TypeError, ValueError, ImportError) as exc:
                raise refuse("result", result, f"a str, or what JSON can have ({exc})") from None
        named = {} if self.id is None else {"tool_call_id": self.id}
        return {"role": "tool", "name": self.name, **named, "content": content}


@public
@attrs.frozen(kw_only=True)
class Message:
    """One message of a conversation, as `GenerateRequest.messages` has it.

    `content` is None only beside tool calls. `reasoning_content` is what the assistant thought
    before it answered. `tool_call_id` names the call that a message of the role "tool" answers.
    """

    role: str
    content: str | None
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning_content: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """As OpenAI's API has it, without what it does not have: the arguments are JSON texts."""
        return self._as_dict(str)

    def for_template(self) -> dict[str, Any]:
        """As chat templates take it: the arguments of tool calls are mappings."""
        return self._as_dict(json.loads)

    def _as_dict(self, arguments: Any) -> dict[str, Any]:
        found: dict[str, Any] = {"role": self.role, "content": self.content}
        for field in ("name", "tool_call_id", "reasoning_content"):
            if (value := getattr(self, field)) is not None:
                found[field] = value
        if self.tool_calls:
            found["tool_calls"] = [
                {
                    **({} if call.id is None else {"id": call.id}),
                    "type": "function",
                    "function": {"name": call.name, "arguments": arguments(call.arguments_json)},
                }
                for call in self.tool_calls
            ]
        return found

    def key(self) -> tuple[Any, ...]:
        """Nested tuples, equal only for equal messages: just role and content if it has no more."""
        more = []
        for field in ("name", "tool_call_id", "reasoning_content"):
            if (value := getattr(self, field)) is not None:
                more.append((field, value))
        if self.tool_calls:
            calls = tuple((call.id, call.name, call.arguments_json) for call in self.tool_calls)
            more.append(("tool_calls", calls))
        return (self.role, self.content, *more)

    def texts(self) -> list[str]:
        """Its content and whatever else a template writes of it, but the role."""
        texts = [self.reasoning_content, self.content, self.name, self.tool_call_id]
        for call in self.tool_calls:
            texts += [call.name, call.arguments_json, call.id]
        return [text for text in texts if text]

    def __str__(self) -> str:
        calls = " ".join(f"{call.name}({call.arguments_json})" for call in self.tool_calls)
        return f"{self.role}: " + " ".join(text for text in (self.content, calls) if text)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Whatever `messages=[...]` takes as a message; `as_dict` when it is dumped."""
        from pydantic_core import core_schema as core

        return core.no_info_plain_validator_function(
            lambda value: _message("message", value, set()),
            serialization=core.plain_serializer_function_ser_schema(
                cls.as_dict, return_schema=core.dict_schema()
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        return json.loads(_JSON_SCHEMA)  # type: ignore[no-any-return]


AnyMessage: TypeAlias = Mapping[str, Any] | Message | HasModelDump
"""What is accepted as a message."""

_KNOWN = frozenset(attrs.fields_dict(Message)) | {"reasoning"}
# What would be lost if it were ignored, and what helps.
_REFUSED = {
    "function_call": "give tool_calls=[...], which has replaced it",
    "functions": "tools are no part of a message: give tools=[...] beside the messages",
    "audio": "models here read text only",
    "images": "models here read text only",
    "image": "models here read text only",
    "files": "models here read text only",
}


def messages_of(value: object) -> tuple[Message, ...]:
    """The canonical messages of what a caller gave.

    Raises:
        InvalidRequestError: a message is not allowed; the error names it by its index.
        PromptTooLongError: no context holds so many.
    """
    if isinstance(value, str | Mapping | Message) or not isinstance(value, Iterable):
        raise refuse("messages", value, 'a list like [{"role": "user", "content": "Hello"}]')
    messages: list[Message] = []
    ignored: set[str] = set()
    for index, message in enumerate(value):
        if index == MAX_MESSAGES:
            raise PromptTooLongError(
                f"more than {MAX_MESSAGES:,} messages are not allowed: no context holds so many"
            )
        messages.append(_message(f"messages[{index}]", message, ignored))
    if not messages:
        raise refuse("messages", value, "at least one message is needed")
    last, name = messages[-1], f"messages[{len(messages) - 1}]"
    if last.tool_calls:
        raise InvalidRequestError(
            f"{name}: the last message has tool_calls: add their results, as messages of the role "
            '"tool"'
        )
    if last.role == "assistant" and not (last.content or "").strip():
        raise refuse(
            f"{name}['content']",
            last.content,
            "a last message of the assistant is continued, and needs text; leave it out to begin "
            "the answer",
        )
    if ignored:
        logger.debug("keys of messages that are ignored: %s", ", ".join(sorted(ignored)))
    return tuple(messages)


def is_continued(messages: Sequence[Message]) -> bool:
    """Whether the last message is the beginning of the answer."""
    return bool(messages) and messages[-1].role == "assistant"


def _message(name: str, value: object, ignored: set[str]) -> Message:
    given = value.as_dict() if isinstance(value, Message) else _mapping(name, value)
    if given is None:
        raise refuse(name, value, 'a mapping with the keys "role" and "content"')
    if not (role := given.get("role")):
        raise refuse(f"{name}['role']", role, 'a role such as "system", "user", "assistant"')
    role = validation.text(f"{name}['role']", role)
    content, calls = given.get("content"), given.get("tool_calls")
    if len(given) == 2 and isinstance(content, str):
        return Message(role=role, content=validation.text(f"{name}['content']", content))
    for key, item in given.items():
        if item is None or key in _KNOWN:
            continue
        if key in _REFUSED:
            raise refuse(f"{name}[{key!r}]", item, _REFUSED[key])
        ignored.add(repr(key))
    tool_calls = () if calls is None else _tool_calls(f"{name}['tool_calls']", calls)
    return Message(
        role=role,
        content=_content(f"{name}['content']", content, may_be_missing=bool(tool_calls)),
        name=_optional(f"{name}['name']", given.get("name")),
        tool_calls=tool_calls,
        tool_call_id=_optional(f"{name}['tool_call_id']", given.get("tool_call_id")),
        reasoning_content=_reasoning(name, given),
    )


def _mapping(name: str, value: object) -> Mapping[Any, Any] | None:
    """A mapping, also of an object of pydantic's; None if it is neither."""
    if not isinstance(value, Mapping):
        dump = None if isinstance(value, type) else getattr(value, "model_dump", None)
        if not callable(dump):
            return None
        try:
            value = dump()
        except Exception as exc:
            raise InvalidRequestError(f"{name}: its model_dump() failed: {exc!r}") from exc
    return value if isinstance(value, Mapping) else None


def _optional(name: str, value: object) -> str | None:
    return None if value is None else validation.text(name, value)


def _content(name: str, value: object, *, may_be_missing: bool) -> str | None:
    if value is None:
        if may_be_missing:
            return None
        raise refuse(name, value, "a str, or a list of parts; only tool_calls can be in its place")
    if isinstance(value, str):
        return validation.text(name, value)
    if isinstance(value, Mapping | bytes) or not isinstance(value, Iterable):
        raise refuse(name, value, f"a str, or a list of parts, not {type(value).__name__}")
    parts = []
    for index, part in enumerate(value):
        where = f"{name}[{index}]"
        given = _mapping(where, part)
        if given is None:
            raise refuse(where, part, 'a part like {"type": "text", "text": "Hello"}')
        if given.get("type") != "text":
            raise refuse(
                f"{where}['type']",
                given.get("type"),
                'models here read text only: parts of the type "text"',
            )
        parts.append(validation.text(f"{where}['text']", given.get("text")))
    if not parts:
        raise refuse(name, value, "at least one part is needed")
    return "\n".join(parts)


def _reasoning(name: str, given: Mapping[Any, Any]) -> str | None:
    values = [
        validation.text(f"{name}[{key!r}]", given[key])
        for key in ("reasoning_content", "reasoning")
        if given.get(key) is not None
    ]
    if len(set(values)) > 1:
        raise InvalidRequestError(
            f"{name}: reasoning and reasoning_content differ: give one of them"
        )
    return values[0] if values else None


def _tool_calls(name: str, value: object) -> tuple[ToolCall, ...]:
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise refuse(name, value, "a list of tool calls")
    calls = []
    for index, item in enumerate(value):
        where = f"{name}[{index}]"
        call = _mapping(where, item)
        if call is None:
            raise refuse(
                where,
                item,
                'a mapping like {"id": "1", "type": "function", "function": {"name": ...,'
                ' "arguments": ...}}',
            )
        if (kind := call.get("type")) not in (None, "function"):
            raise refuse(f"{where}['type']", kind, 'only the type "function" is known')
        function = _mapping(f"{where}['function']", call.get("function"))
        if function is None:
            raise refuse(
                f"{where}['function']",
                call.get("function"),
                'a mapping with the keys "name" and "arguments"',
            )
        called = validation.text(f"{where}['function']['name']", function.get("name"))
        if not called:
            raise refuse(f"{where}['function']['name']", called, "at least one character")
        calls.append(
            ToolCall(
                name=called,
                arguments_json=_arguments(
                    f"{where}['function']['arguments']", function.get("arguments")
                ),
                id=_optional(f"{where}['id']", call.get("id")),
            )
        )
    return tuple(calls)


def _arguments(name: str, value: object) -> str:
    given = value
    if value is None or value == "":  # of a function without arguments
        value = {}
    if isinstance(value, str):
        try:
            value = json.loads(validation.text(name, value), parse_constant=_no_constant)
        except (ValueError, RecursionError) as exc:
            raise refuse(name, given, f"it is no JSON: {exc}") from None
    if not isinstance(value, Mapping):
        raise refuse(name, given, "a mapping, or a JSON object as text")
    return canonical_json(name, value)


def _no_constant(constant: str) -> NoReturn:
    raise ValueError(f"JSON has no {constant}")


def canonical_json(name: str, value: object) -> str:
    """A JSON value as text without spaces; mappings keep the order of their keys.

    Raises:
        InvalidRequestError: JSON cannot have it.
    """
    text = json.dumps(_plain(name, value, 0), ensure_ascii=False, separators=(",", ":"))
    return validation.text(name, text)


def _plain(name: str, value: object, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise InvalidRequestError(f"{name} is not allowed: it is nested deeper than {_MAX_DEPTH}")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return validation.text(name, value)
    if (number := validation.scalar(value)) is not value:  # of numpy
        return _plain(name, number, depth)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise refuse(name, value, f"a key is {key!r}, and keys in JSON are texts")
        return {
            validation.text(name, key): _plain(f"{name}[{key!r}]", item, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(f"{name}[{at}]", item, depth + 1) for at, item in enumerate(value)]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise refuse(name, value, "JSON has finite numbers only")
        return float(value)
    if isinstance(value, int):
        return validation.whole_number(name, value, -(2**63), 2**64 - 1)
    raise refuse(
        name,
        value,
        f"JSON values are needed (str, number, bool, None, list, dict), not {type(value).__name__}",
    )
