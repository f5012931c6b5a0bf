"""From a type to the form of an answer, and from the answer's text to a value of that type.

Types other than the plain ones need pydantic, which is imported when it is needed.
"""

from __future__ import annotations

import enum
import functools
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args, get_origin

import attrs

from asteady._base.errors import InvalidRequestError
from asteady._base.validation import needs, refuse

T = TypeVar("T")

_WHOLE = "^-?(0|[1-9][0-9]{0,17})$"
_PLAIN: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}


@attrs.frozen
class Form(Generic[T]):
    """What a call's `schema` or `choices` mean: the options of the request, and how the text of an
    answer becomes a value."""

    options: Mapping[str, Any]
    parse: Callable[[str], T]


def form_of(schema: Any, choices: Any) -> Form[Any]:
    """The form that one of them gives.

    Raises:
        InvalidRequestError: both are given, or it is not allowed, or no schema can be made of it.
        SettingsError: it needs pydantic, which is not installed.
    """
    if choices is None:
        return _schema_form(schema)
    if schema is not None:
        raise InvalidRequestError("give one of schema, choices: an answer has one form")
    return _choices_form(choices)


def _schema_form(schema: Any) -> Form[Any]:
    if isinstance(schema, type):  # first, since each cached answer comes by here
        return _type_form(schema)
    if isinstance(schema, str):
        return Form({"schema": schema}, json.loads)
    if isinstance(schema, Mapping) or schema is True or schema is False:
        try:
            text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError, RecursionError) as exc:
            raise InvalidRequestError(f"schema is not allowed: it cannot be JSON: {exc}") from None
        return Form({"schema": text}, json.loads)
    try:
        hash(schema)
    except TypeError as exc:
        raise refuse("schema", schema, "a type, or a JSON schema as a mapping") from exc
    return _type_form(schema)


@functools.lru_cache(maxsize=256)
def _type_form(kind: Any) -> Form[Any]:
    if kind in _PLAIN:
        return Form(
            {"schema": json.dumps({"type": _PLAIN[kind]})}, lambda text: kind(json.loads(text))
        )
    if not isinstance(kind, type) and get_origin(kind) is None and not _names_a_type(kind):
        raise refuse("schema", kind, "a type, or a JSON schema as a mapping")
    pydantic = needs("pydantic", extra="pydantic")
    try:
        adapter = pydantic.TypeAdapter(_for_pydantic(kind))
        schema = adapter.json_schema(schema_generator=schema_generator())
    except (
        pydantic.PydanticUserError,
        pydantic.PydanticUndefinedAnnotation,
        NameError,  # in an annotation
        TypeError,
    ) as exc:
        raise InvalidRequestError(
            f"schema={kind!r} is not allowed: pydantic makes no JSON schema of it: "
            + pydantic_reason(exc)
        ) from exc
    text = json.dumps(closed(schema), ensure_ascii=False, separators=(",", ":"))
    return Form({"schema": text}, adapter.validate_json)


def pydantic_reason(exc: Exception) -> str:
    """What pydantic cannot make a schema of, without its remedies: with none of them it could."""
    text = str(exc).splitlines()[0]
    return re.split(r"\. Set `arbitrary_types_allowed|; you should define", text)[0]


def _names_a_type(kind: Any) -> bool:
    """Whether it is a `NewType`, or what a ``type`` statement makes."""
    return isinstance(kind, typing.NewType) or type(kind).__name__ == "TypeAliasType"


@functools.cache
def schema_generator() -> Any:
    """Pydantic's class that makes JSON schemas, with those that an answer can be held to."""
    from pydantic.json_schema import GenerateJsonSchema

    class Generator(GenerateJsonSchema):
        def decimal_schema(self, schema: Any) -> dict[str, Any]:
            # Pydantic's is any text too, and does not bound the digits.
            number: dict[str, Any] = super().decimal_schema(schema)["anyOf"][0]
            places, digits = schema.get("decimal_places"), schema.get("max_digits")
            if places is not None:
                number.setdefault("multipleOf", 10**-places)
                if digits is not None:
                    most = (10**digits - 1) / 10**places
                    number["minimum"] = max(number.get("minimum", -most), -most)
                    number["maximum"] = min(number.get("maximum", most), most)
            return number

        def dict_schema(self, schema: Any) -> dict[str, Any]:
            found = super().dict_schema(schema)
            if schema.get("keys_schema", {}).get("type") == "int":  # pydantic's are any texts
                values = found.pop("additionalProperties", True)
                found |= {"patternProperties": {_WHOLE: values}, "additionalProperties": False}
            return found

    return Generator


def _for_pydantic(kind: Any, within: tuple[type, ...] = ()) -> Any:
    """The type, with the classes of attrs in it as data classes that become them, and those of
    `typing.TypedDict` as pydantic takes them; it is part of the classes `within`."""
    if isinstance(kind, typing.NewType):
        return _for_pydantic(kind.__supertype__, within)
    if kind in within:
        raise InvalidRequestError(
            f"schema={within[0]!r} is not allowed: the class {kind.__name__} contains itself;"
            " write it as a model of pydantic or as a dataclass"
        )
    if isinstance(kind, type) and attrs.has(kind):
        return _attrs_type(kind, (*within, kind))
    if sys.version_info < (3, 12) and typing.is_typeddict(kind):
        return _typed_dict(kind, (*within, kind))
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is None or origin is Literal:
        return kind
    replaced = tuple(_for_pydantic(argument, within) for argument in arguments)
    if replaced == arguments:
        return kind
    if origin is types.UnionType or origin is typing.Union:
        return functools.reduce(lambda one, other: one | other, replaced)
    return origin[replaced]


def _typed_dict(kind: Any, within: tuple[type, ...]) -> Any:
    # Before Python 3.12 those of typing do not tell pydantic enough.
    import typing_extensions

    fields: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        needed = typing.Required if name in kind.__required_keys__ else typing.NotRequired
        if get_origin(hint) in (typing.Required, typing.NotRequired):
            needed, (hint,) = get_origin(hint), get_args(hint)
        fields[name] = needed[_for_pydantic(hint, within)]
    make: Any = typing_extensions.TypedDict  # type checkers want it written out
    return make(kind.__name__, fields)


def _attrs_type(kind: type, within: tuple[type, ...]) -> Any:
    import dataclasses

    import pydantic

    hints = typing.get_type_hints(kind, include_extras=True)
    fields: list[Any] = []
    for field in attrs.fields(kind):
        if not field.init:
            continue
        default = field.default
        made_by: Any = default if isinstance(default, attrs.Factory) else None  # type: ignore[arg-type]  # it is a class
        if default is attrs.NOTHING or (made_by is not None and made_by.takes_self):
            more = dataclasses.field(kw_only=True)
        elif made_by is not None:
            more = dataclasses.field(kw_only=True, default_factory=made_by.factory)
        else:
            more = dataclasses.field(kw_only=True, default=default)
        fields.append((field.alias, _for_pydantic(hints[field.name], within), more))
    record = dataclasses.make_dataclass(kind.__name__, fields)

    def made(found: Any) -> Any:
        return kind(**{name: getattr(found, name) for name, _, _ in fields})

    return Annotated[record, pydantic.AfterValidator(made)]


def closed(schema: Any) -> Any:
    """The schema of a type, without properties that the type does not have, and without what a
    grammar cannot follow and the type sees to."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: closed(value) for name, value in schema.items()}
    if found.get("type") == "object":
        if isinstance(found.get("properties"), dict):
            found.setdefault("additionalProperties", False)
        if isinstance(found.get("patternProperties"), dict):  # of a dict
            found.setdefault("additionalProperties", False)
            found.pop("propertyNames", None)
    if found.get("type") == "array":
        found.pop("uniqueItems", None)  # of a set
    return found


def _choices_form(choices: Any) -> Form[Any]:
    if not isinstance(choices, list | tuple):  # first, since each cached answer comes by here
        if isinstance(choices, type) and issubclass(choices, enum.Enum):
            return _members_form(choices.__members__.items())
        if get_origin(choices) is Literal:
            choices = get_args(choices)
        elif isinstance(choices, str | bytes | Mapping) or not isinstance(choices, Iterable):
            raise refuse(
                "choices", choices, 'a list of texts, such as ["yes", "no"], an Enum or a Literal'
            )
    texts = tuple(choices)
    if texts and isinstance(texts[0], enum.Enum) and all(isinstance(i, enum.Enum) for i in texts):
        return _members_form((member.name, member) for member in texts)
    return Form({"choices": texts}, str)


def _members_form(members: Iterable[tuple[str, enum.Enum]]) -> Form[Any]:
    by_text = {
        member.value if isinstance(member.value, str) else name: member for name, member in members
    }
    return Form({"choices": tuple(by_text)}, by_text.__getitem__)
