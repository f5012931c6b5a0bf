"""Records as plain values for JSON, and as types of pydantic, which FastAPI uses.

All of it follows from a record's attrs fields and their types, so a new field needs nothing here.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache
from typing import Any, Self, TypeVar

import attrs

from asteady._base.errors import InvalidRequestError
from asteady._base.validation import one_of, refuse

T = TypeVar("T")


class Record:
    """Base class of attrs records that are handed out as JSON."""

    __slots__ = ()

    def as_dict(self) -> dict[str, Any]:
        """The fields, by name, as values of JSON: str, int, float, bool, None, list and dict.

        Records in it become dictionaries, vectors lists of numbers. The bytes of a token become
        text if they are valid UTF-8, else (a part of a character) a list of numbers from 0 to 255.
        """
        return {name: plain(getattr(self, name)) for name in self.keys()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The record that `as_dict` made `values` of. Other keys are ignored.

        Raises:
            InvalidRequestError: a field without a default is missing, or has a wrong type; the
                error names it.
        """
        return _read(cls.__name__, cls, values)  # type: ignore[no-any-return]

    # `dict(record)` is what FastAPI tries where an endpoint declares no type.

    def keys(self) -> list[str]:
        """The names of the fields. ``dict(record)`` is ``record.as_dict()``."""
        return list(attrs.fields_dict(type(self)))  # type: ignore[arg-type]  # an attrs record

    def __getitem__(self, name: str) -> Any:
        if name not in self.keys():
            raise KeyError(name)
        return plain(getattr(self, name))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """An instance, or a mapping of its fields; dumped as by `as_dict`."""
        from pydantic_core import PydanticSerializationUnexpectedValue, core_schema as core

        arguments = typing.get_args(source)  # of a generic record
        given = dict(zip(getattr(cls, "__parameters__", ()), arguments, strict=False))
        fields = {
            name: core.typed_dict_field(
                handler.generate_schema(given.get(hint, hint)), required=required
            )
            for name, (hint, required) in _fields(cls).items()  # type: ignore[arg-type]  # hashable
        }
        form = core.typed_dict_schema(fields)

        def read(value: Any, inner: Callable[[Any], dict[str, Any]]) -> Any:
            return value if isinstance(value, cls) else cls(**inner(value))

        def dump(value: Any, inner: Callable[[Any], Any]) -> Any:
            if not isinstance(value, cls):
                raise PydanticSerializationUnexpectedValue(f"{cls.__name__} is expected")
            return inner({name: getattr(value, name) for name in fields})

        names = ", ".join(f"{getattr(a, '__name__', a)}:{id(a)}" for a in arguments)
        return core.no_info_wrap_validator_function(
            read,
            form,
            ref=f"{cls.__module__}.{cls.__qualname__}:{id(cls)}" + (names and f"[{names}]"),
            serialization=core.wrap_serializer_function_ser_schema(dump, schema=form),
        )

    @property
    def __pydantic_serializer__(self) -> Any:
        # Where no type is declared, as in dict[str, Any], pydantic looks for this.
        return _adapter(type(self)).serializer  # type: ignore[arg-type]  # hashable

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> Any:
        schema = handler(core_schema)
        found = handler.resolve_ref_schema(schema)
        found |= {"title": cls.__name__, "description": inspect.getdoc(cls)}
        if handler.mode == "serialization":
            found["required"] = list(found["properties"])
        return schema


@attrs.frozen
class JsonForm:
    """In `Annotated`, of a field that JSON has in another form: its type, and the way back.

    The way there is `plain`. `read` raises ValueError for what it cannot read.
    """

    form: Any
    read: Callable[[Any], Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema as core

        form = handler.generate_schema(self.form)
        return core.no_info_wrap_validator_function(
            lambda value, inner: self.read(inner(plain(value))),
            form,
            serialization=core.plain_serializer_function_ser_schema(plain, return_schema=form),
        )


def plain(value: Any) -> Any:
    """The value as JSON has it.

    Raises:
        ValueError: JSON cannot have it.
    """
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Record):
        return value.as_dict()
    if attrs.has(type(value)):  # a value of a class of the caller's
        return {name: plain(getattr(value, name)) for name in attrs.fields_dict(type(value))}
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return list(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, Enum):
        return plain(value.value)
    if hasattr(value, "tolist"):  # an array or a number of numpy, which is not imported for this
        return value.tolist()
    # A value of a type of the caller's is in an answer only where pydantic has made it.
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(value)


@cache
def _adapter(cls: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


@cache
def _fields(cls: Any) -> dict[str, tuple[Any, bool]]:
    """The type of each field, and whether it is required."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {
        field.name: (hints[field.name], field.default is attrs.NOTHING)
        for field in attrs.fields(cls)
    }


def _read(name: str, hint: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, TypeVar):
        return value
    if origin is typing.Annotated:
        form = arguments[1]
        found = _read(name, form.form, value)
        try:
            return form.read(found)
        except ValueError as exc:
            raise refuse(name, value, str(exc)) from None
    if origin in (typing.Union, types.UnionType):
        refused = []
        for other in arguments:
            try:
                return _read(name, other, value)
            except InvalidRequestError as exc:
                refused.append(exc)
        raise refused[0]
    if origin is typing.Literal:
        return one_of(name, value, arguments)
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            raise refuse(name, value, "a list")
        if origin is list or arguments[-1] is ...:
            arguments = (arguments[0],) * len(value)
        if len(arguments) != len(value):
            raise refuse(name, value, f"a list of {len(arguments)}")
        pairs = enumerate(zip(arguments, value, strict=True))
        return origin(_read(f"{name}[{at}]", of, item) for at, (of, item) in pairs)
    if origin is dict or issubclass(hint, Record):
        if not isinstance(value, Mapping):
            raise refuse(name, value, f"a mapping is needed, not {type(value).__name__}")
        if origin is dict:
            return {key: _read(f"{name}[{key!r}]", arguments[1], of) for key, of in value.items()}
        for key, (_, required) in _fields(hint).items():
            if required and key not in value:
                raise InvalidRequestError(f"{name}.{key} is missing")
        known = {key: of for key, (of, _) in _fields(hint).items() if key in value}
        return hint(**{key: _read(f"{name}.{key}", of, value[key]) for key, of in known.items()})
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise refuse(name, value, f"{hint.__name__} is needed, not {type(value).__name__}")
    return value
