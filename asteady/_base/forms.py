"""From a type to the form of an answer, and from the answer's text to a value of that type.

Types other than the plain ones need pydantic, which is imported when it is needed.
"""

from __future__ import annotations

import enum
import functools
import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args, get_origin

import attrs

from asteady._base.errors import InvalidRequestError
from asteady._base.validation import needs, refuse

T = TypeVar("T")

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
    if not isinstance(kind, type) and get_origin(kind) is None:
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
        reason = str(exc).splitlines()[0]
        raise InvalidRequestError(
            f"schema={kind!r} is not allowed: pydantic makes no JSON schema of it: {reason}"
        ) from exc
    text = json.dumps(closed(schema), ensure_ascii=False, separators=(",", ":"))
    return Form({"schema": text}, adapter.validate_json)


@functools.cache
def schema_generator() -> Any:
    """Pydantic's class that makes JSON schemas, with those that an answer can be held to."""
    from pydantic.json_schema import GenerateJsonSchema

    class Generator(GenerateJsonSchema):
        def decimal_schema(self, schema: Any) -> dict[str, Any]:
            # Pydantic's is any text too.
            return {"type": "number"}

    return Generator


def _for_pydantic(kind: Any, within: tuple[type, ...] = ()) -> Any:
    """The type, with the classes of attrs in it as data classes that become them; it is part of
    these classes."""
    if kind in within:
        raise InvalidRequestError(
            f"schema={within[0]!r} is not allowed: the attrs class {kind.__name__} contains itself;"
            " write it as a model of pydantic or as a dataclass"
        )
    if isinstance(kind, type) and attrs.has(kind):
        return _attrs_type(kind, (*within, kind))
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is None or origin is Literal:
        return kind
    replaced = tuple(_for_pydantic(argument, within) for argument in arguments)
    if replaced == arguments:
        return kind
    if origin is types.UnionType or origin is typing.Union:
        return functools.reduce(lambda one, other: one | other, replaced)
    return origin[replaced]


def _attrs_type(kind: type, within: tuple[type, ...]) -> Any:
    import dataclasses

    import pydantic

    hints = typing.get_type_hints(kind)
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
    if found.get("type") == "object" and isinstance(found.get("properties"), dict):
        found.setdefault("additionalProperties", False)
    if found.get("type") == "array":
        found.pop("uniqueItems", None)  # of a set
    return found


def _choices_form(choices: Any) -> Form[Any]:
    if isinstance(choices, type) and issubclass(choices, enum.Enum):
        members = {
            member.value if isinstance(member.value, str) else name: member
            for name, member in choices.__members__.items()
        }
        return Form({"choices": tuple(members)}, members.__getitem__)
    if get_origin(choices) is Literal:
        choices = get_args(choices)
    if isinstance(choices, str | bytes | Mapping) or not isinstance(choices, Iterable):
        raise refuse(
            "choices", choices, 'a list of texts, such as ["yes", "no"], an Enum or a Literal'
        )
    return Form({"choices": tuple(choices)}, str)
