"""Functions and classes as tools: their JSON schemas, and typed arguments for them.

Simple types are described here, so that a request has the same key with and without pydantic; all
others need pydantic.
"""

from __future__ import annotations

import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from math import isfinite
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from asteady._base.errors import InvalidRequestError
from asteady._base.forms import closed, pydantic_reason, schema_generator
from asteady._base.validation import needs

_SIMPLE = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    NoneType: {"type": "null"},
    list: {"type": "array"},
    dict: {"type": "object"},
}
# Of docstrings: sections in the styles of Google and of NumPy (with a line under the title), their
# parameters, and the fields of Sphinx's style.
_SECTION = re.compile(
    r"^(Args|Arguments|Parameters|Returns?|Raises|Yields?|Examples?|Notes?|See Also|References)"
    r"(?:[ ]*:[ ]*|\n(-{3,})[ ]*)$",
    re.MULTILINE,
)
_ARGUMENT = re.compile(r"^\*{0,2}(\w+)[ ]*(?:\([^)\n]*\))?[ ]*:[ ]*(.*(?:\n[ ]+.*)*)", re.MULTILINE)
_NUMPY_ARGUMENT = re.compile(r"^\*{0,2}(\w+)[ ]*(?::.*)?((?:\n+[ ]+.*)+)", re.MULTILINE)
_FIELD = re.compile(
    r"^:(param|type|returns?|rtype|raises)\b([^:\n]*):[ ]*(.*(?:\n[ ]+.*)*)", re.MULTILINE
)


def is_model(tool: object) -> bool:
    """Whether it is a class of pydantic's."""
    return isinstance(tool, type) and callable(getattr(tool, "model_json_schema", None))


def definition_of(where: str, tool: Any) -> dict[str, Any]:
    """Name, description and JSON schema of a function, or of a class.

    Raises:
        InvalidRequestError: it has no name, or a parameter that no JSON schema can describe.
        SettingsError: a type needs pydantic, which is not installed.
    """
    name = _name(tool)
    if not isinstance(name, str):
        raise InvalidRequestError(
            f"{where}={tool!r} is not allowed: it has no __name__; give a function"
        )
    if is_model(tool):
        schema = _schema_of_model(where, tool)
        description = schema.pop("description", None)
    else:
        description, described = _documentation(tool)
        schema = _schema_of(where, tool)
        for parameter, text in described.items():
            if parameter in schema["properties"]:
                schema["properties"][parameter].setdefault("description", text)
    schema.pop("title", None)
    return {
        "name": name,
        **({"description": description} if description else {}),
        "parameters": schema,
    }


def typed_arguments(tool: Any, arguments: Mapping[str, Any]) -> Any:
    """The arguments as the tool takes them: an instance of a class, else a mapping.

    Raises:
        InvalidRequestError: they do not fit the parameters.
        pydantic.ValidationError: likewise, found by pydantic.
    """
    if is_model(tool):
        return tool.model_validate(arguments)
    if not callable(tool):
        return dict(arguments)
    model = _model_of("tool", tool)
    if model is None:
        found = dict(arguments)
        try:
            inspect.signature(tool).bind(**found)
        except TypeError as exc:
            raise InvalidRequestError(f"{_name(tool)} cannot be called: {exc}") from None
    else:
        record = model.model_validate(arguments)
        # Defaults are the function's own.
        found = {
            field.alias: getattr(record, name)
            for name, field in model.model_fields.items()
            if name in record.model_fields_set
        }
    return tool(**found) if isinstance(tool, type) else found


def _name(tool: Any) -> Any:
    return getattr(_function(tool), "__name__", None)


def _function(tool: Any) -> Any:
    """What a `functools.partial` calls; else the tool."""
    while isinstance(tool, functools.partial):
        tool = tool.func
    return tool


def _parameters(where: str, tool: Any) -> dict[str, tuple[Any, Any]]:
    """The type and the default of each parameter that a call has to give."""
    bound = tool.keywords if isinstance(tool, functools.partial) else {}
    function = _function(tool)
    try:
        parameters = inspect.signature(tool).parameters.values()
        source = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]  # hints only
        hints = get_type_hints(source, include_extras=True)
    except (TypeError, ValueError, NameError, AttributeError) as exc:
        raise InvalidRequestError(f"{where}={tool!r} is not allowed: {exc}") from None
    found = {}
    for parameter in parameters:
        if parameter.name in bound:
            continue
        name = f"{where}: the parameter {parameter.name!r} of {_name(tool)}"
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise InvalidRequestError(f"{name} has no name to pass it by; give it one")
        if parameter.name not in hints:
            raise InvalidRequestError(f"{name} has no type hint; give it one")
        found[parameter.name] = hints[parameter.name], parameter.default
    return found


def _schema_of(where: str, tool: Any) -> dict[str, Any]:
    parameters = _parameters(where, tool)
    properties = {}
    for name, (hint, default) in parameters.items():
        simple = _simple_schema(hint)
        if simple is None:
            needs("pydantic", extra="pydantic")
            schema = {"properties": {}, **_schema_of_model(where, _model_of(where, tool))}
            for described in schema["properties"].values():
                described.pop("title", None)
            for name, (hint, _) in parameters.items():
                texts = [item for item in get_args(hint)[1:] if isinstance(item, str)]
                if get_origin(hint) is Annotated and texts:
                    schema["properties"][name].setdefault("description", texts[0])
            return schema
        if isinstance(default, str | int) or (isinstance(default, float) and isfinite(default)):
            simple = {**simple, "default": default}
        properties[name] = simple
    required = [
        name for name, (_, default) in parameters.items() if default is inspect.Parameter.empty
    ]
    return {
        "type": "object",
        "properties": properties,
        **({"required": required} if required else {}),
    }


def _schema_of_model(where: str, model: Any) -> dict[str, Any]:
    import pydantic

    try:
        schema: dict[str, Any] = model.model_json_schema(schema_generator=schema_generator())
    except (pydantic.PydanticUserError, pydantic.PydanticUndefinedAnnotation) as exc:
        raise InvalidRequestError(
            f"{where}: pydantic makes no JSON schema of {model.__name__}: {pydantic_reason(exc)}"
        ) from exc
    found: dict[str, Any] = closed(schema)
    return found


def _simple_schema(hint: Any) -> dict[str, Any] | None:
    """The schema of a type that needs no pydantic; None for others."""
    origin, given = get_origin(hint), get_args(hint)
    if origin is None:
        simple = _SIMPLE.get(hint) if isinstance(hint, type) else None
        return None if simple is None else dict(simple)
    if origin is Annotated:
        described = _simple_schema(given[0])
        if described is None or not all(isinstance(item, str) for item in given[1:]):
            return None
        return {**described, "description": given[1]}
    if origin is Literal:
        if not all(isinstance(item, str | int | None) for item in given):
            return None
        kinds = {_SIMPLE[type(item)]["type"] for item in given if type(item) in _SIMPLE}
        return {**({"type": kinds.pop()} if len(kinds) == 1 else {}), "enum": list(given)}
    parts = [_simple_schema(item) for item in given]
    if any(part is None for part in parts):
        return None
    if origin in (Union, UnionType):
        return {"anyOf": parts}
    if origin is list:
        return {"type": "array", "items": parts[0]}
    if origin is dict and given[0] is str:
        return {"type": "object", "additionalProperties": parts[1]}
    return None


def _model_of(where: str, tool: Any) -> Any:
    """A model of pydantic's with the parameters, by alias, as fields; None without pydantic."""
    try:
        import pydantic
    except ImportError:
        return None
    fields: dict[str, Any] = {
        # A name of their own, as pydantic reserves some.
        f"p{at}": (
            Annotated[hint, pydantic.Field(alias=name)],
            ... if default is inspect.Parameter.empty else default,
        )
        for at, (name, (hint, default)) in enumerate(_parameters(where, tool).items())
    }
    config = pydantic.ConfigDict(extra="forbid", arbitrary_types_allowed=False)
    try:
        return pydantic.create_model(_name(tool), __config__=config, **fields)
    except (pydantic.PydanticUserError, TypeError) as exc:
        raise InvalidRequestError(
            f"{where}={tool!r} is not allowed: {pydantic_reason(exc)}"
        ) from None


def _documentation(tool: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """What a docstring says before its sections, and about each parameter."""
    head, *sections = _SECTION.split(inspect.getdoc(_function(tool)) or "")
    found: list[tuple[str, str]] = []
    for title, line, body in zip(sections[::3], sections[1::3], sections[2::3], strict=True):
        if title in ("Args", "Arguments", "Parameters"):
            found += (_NUMPY_ARGUMENT if line else _ARGUMENT).findall(textwrap.dedent(body))
    head, *fields = _FIELD.split(head)
    for kind, name, text in zip(fields[::4], fields[1::4], fields[2::4], strict=True):
        if kind == "param" and name.strip():
            found.append((name.split()[-1], text))  # a type may be before it
    return head.strip(), {name: " ".join(text.split()) for name, text in found}
