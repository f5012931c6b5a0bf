"""JSON schemas as llguidance reads them, and where in one it finds a fault."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias
from urllib.parse import unquote

from asteady._base.errors import InvalidRequestError

Path: TypeAlias = tuple[str | int, ...]

# The keywords whose values are a schema, a list of schemas, or schemas by name.
_ONE = {
    "additionalItems",
    "additionalProperties",
    "contains",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
}
_LISTS = {"allOf", "anyOf", "items", "oneOf", "prefixItems"}
_BY_NAME = {
    "$defs",
    "definitions",
    "dependencies",
    "dependentSchemas",
    "patternProperties",
    "properties",
}
_DEFINITIONS = ("$defs", "definitions")

# Those that the library can follow. Others are annotations, as by the standard all are.
_FORMATS = {"duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"}

# The library's are wider: they have the year 0, February 29 in each year, and leap seconds, of
# which Python makes no date and no time.
_ANY_YEAR = "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"
_LEAP_YEAR = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_MONTH_AND_DAY = (
    "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    "|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_DATE = f"(?:{_ANY_YEAR}-{_MONTH_AND_DAY}|{_LEAP_YEAR}-02-29)"
_HOUR_AND_MINUTE = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = f"{_HOUR_AND_MINUTE}:[0-5][0-9](?:\\.[0-9]{{1,6}})?(?:Z|[+-]{_HOUR_AND_MINUTE})"
_PATTERNS = {"date": f"^{_DATE}$", "time": f"^{_TIME}$", "date-time": f"^{_DATE}T{_TIME}$"}
_HEX = "[0-9a-fA-F]"
_NAME_PATTERNS = {
    **_PATTERNS,
    "uuid": f"^{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}$",
}

# What json.dumps writes, which models have seen most; with free white space a small model may write
# nothing else until its tokens are used up.
_WRITTEN: dict[str, Any] = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}

# Compiling optional characters in a row takes a time that grows with the square of their number: a
# second for so many.
_MOST_PATTERN_CHARACTERS = 2**14

# Properties in one object likewise: a second and a half.
_MOST_PROPERTIES = 2**12

_CLOSE = 1e-9

# An answer has fewer tokens.
_MOST_BYTES = 2**31

# Looking for a fault reads about so many characters at most.
_MOST_READ = 10_000_000


def grammar_of(source: str) -> str:
    """A schema for llguidance: without what means nothing to it, and with how JSON is written.

    Raises:
        InvalidRequestError: an answer could not be held to it, or compiling it could take long.
    """
    schema = json.loads(source)
    pattern_characters = squares = 0
    left: list[tuple[Path, Any]] = [((), schema)]
    seen = set[Path]()
    while left:
        place, part = left.pop()
        if not isinstance(part, dict) or place in seen:
            continue
        seen.add(place)
        _name_properties(schema, part)
        left += (((*place, *path), child) for path, child in _subschemas(part))
        # A reference may lead to where no keyword does: "#/parts/name".
        left += _referred(schema, part)
        kind = part.get("format")
        if isinstance(kind, str) and kind not in _FORMATS:
            del part["format"]
            if kind in _PATTERNS:
                own = {"pattern": _PATTERNS[kind]}
                if "pattern" in part:
                    part["allOf"] = [*part.get("allOf", ()), own]
                else:
                    part |= own
        _close_narrow_range(part)
        if part.get("uniqueItems") is False:
            del part["uniqueItems"]
        patterns = [part.get("pattern"), *_named(part, "patternProperties")]
        pattern_characters += sum(len(text) for text in patterns if isinstance(text, str))
        if pattern_characters > _MOST_PATTERN_CHARACTERS:
            raise InvalidRequestError(
                f"schema is not allowed at {pointer(place)}: with this one its patterns have "
                f"{pattern_characters:,} characters, and may have {_MOST_PATTERN_CHARACTERS:,}"
            )
        least, named = part.get("minProperties"), _named(part, "properties")
        squares += len(named) ** 2
        if squares > _MOST_PROPERTIES**2:
            raise InvalidRequestError(
                f"schema is not allowed at {pointer(place)}: with the {len(named):,} properties of "
                f"this object there are too many: one may have {_MOST_PROPERTIES:,}, four may have "
                f"{_MOST_PROPERTIES // 2:,} each"
            )
        # The library does not see to it that the names of other properties differ.
        if isinstance(least, int) and (unnamed := least - len(named)) > 1:
            raise InvalidRequestError(
                f"schema is not allowed at {pointer(place)}: minProperties asks for {unnamed} "
                "properties that properties does not name, and a model could give two of them the "
                "same name: name them, or use an array"
            )
    return _written(schema)


def _name_properties(schema: Any, part: dict[str, Any]) -> None:
    """Put properties in place of `propertyNames`, which the library does not follow, if it says
    all that is asked of the names."""
    names = part.get("propertyNames")
    if isinstance(names, dict) and "$ref" in names:
        names = next((found for _, found in _referred(schema, names)), None)
    if not isinstance(names, dict) or part.keys() & {"properties", "patternProperties"}:
        return
    values = part.get("additionalProperties", True)
    match {key: value for key, value in names.items() if key not in ("title", "description")}:
        case {"enum": [*texts], **rest} if all(isinstance(text, str) for text in texts):
            named = {"properties": dict.fromkeys(texts, values)}
        case {"const": str(text), **rest}:
            named = {"properties": {text: values}}
        case {"pattern": str(pattern), **rest}:
            named = {"patternProperties": {pattern: values}}
        case {"format": str(kind), **rest} if kind in _NAME_PATTERNS:
            named = {"patternProperties": {_NAME_PATTERNS[kind]: values}}
        case {"maxLength": int(most), **rest} if isinstance(rest.get("minLength", 0), int):
            least = rest.pop("minLength", 0)
            named = {"patternProperties": {f"^(?s:.{{{least},{most}}})$": values}}
        case _:
            return
    if rest.pop("type", "string") == "string" and not rest:
        part |= {**named, "additionalProperties": False}
        del part["propertyNames"]


def _close_narrow_range(part: dict[str, Any]) -> None:
    """Put a close inclusive bound in place of each exclusive one that is whole, if the range is
    below 1: between 0, exclusive, and 0.5 the library allows 0."""
    bounds: dict[str, float] = {
        name: value
        for name in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
        if isinstance(value := part.get(name), int | float) and not isinstance(value, bool)
    }
    least = max((bounds[name] for name in bounds if name.endswith("inimum")), default=-math.inf)
    most = min((bounds[name] for name in bounds if name.endswith("aximum")), default=math.inf)
    if most - least >= 1:
        return
    for exclusive, inclusive, step in (
        ("exclusiveMinimum", "minimum", _CLOSE),
        ("exclusiveMaximum", "maximum", -_CLOSE),
    ):
        if bounds.get(exclusive, 0.5) % 1 == 0:
            del part[exclusive]
            end = least if step > 0 else most
            part[inclusive] = end + step if bounds[exclusive] == end else end


def most_bytes(schema: dict[str, Any]) -> int | None:
    """How long the JSON of an answer is at most; None if that is not bounded, or not known."""
    try:
        found = _most_bytes(schema, schema, {})
    except (RecursionError, OverflowError):  # references that lead to references; huge bounds
        return None
    return int(found) if found < _MOST_BYTES else None


def _most_bytes(schema: dict[str, Any], part: Any, known: dict[Path, float]) -> float:
    """Of what follows a part; `known` has those of the places that references lead to."""
    if not isinstance(part, dict):
        return math.inf
    inside = partial(_most_bytes, schema, known=known)
    if "const" in part or "enum" in part:
        values = part.get("enum", [part.get("const")])
        return max((len(json.dumps(value)) for value in values), default=math.inf)
    for place, child in _referred(schema, part):
        if place not in known:
            known[place] = math.inf  # should it contain itself
            known[place] = inside(child)
        return known[place]
    for keyword in ("anyOf", "oneOf"):
        if keyword in part:
            return max(map(inside, part[keyword]), default=math.inf)
    match part:
        case {"type": "null" | "boolean"}:
            return len("false")
        case {"type": "integer", "minimum": int(least), "maximum": int(most)}:
            return max(len(str(least)), len(str(most)))
        case {"type": "string", "maxLength": int(most)}:
            return 2 + len("\\u0000") * most
        case {"type": "array", "maxItems": int(most), "items": item} if "prefixItems" not in part:
            return 2 + most * (inside(item) + 2) if most else 2
        case {"type": "object", "properties": dict(named), "additionalProperties": False}:
            if "patternProperties" not in part:
                return 2 + sum(len(json.dumps(name)) + 4 + inside(named[name]) for name in named)
    return math.inf


def place_of(schema: Any, error_of: Callable[[str], str]) -> str:
    """Where in a schema the fault is for which `error_of` gives a message, as a JSON pointer such
    as "#/properties/name"; "#" if it is all of it, or cannot be told."""
    wanted = error_of(_written(schema))
    definitions = {name: schema[name] for name in _DEFINITIONS if name in schema}
    left = _MOST_READ
    place: Path = ()
    part, seen = schema, {place}
    while True:
        # References last: one that leads back here has the fault too, but not in itself.
        inner = sorted(_inner(schema, place, part), key=lambda item: _refers(item[1]))
        for path, child in inner:
            if path in seen or not isinstance(child, dict):
                continue
            seen.add(path)
            text = _written({**definitions, **child})
            left -= len(text)
            if left >= 0 and error_of(text) == wanted:
                place, part = path, child
                break
        else:
            return pointer(place)


def pointer(place: Path) -> str:
    """A JSON pointer, as in a reference."""
    steps = (str(step).replace("~", "~0").replace("/", "~1") for step in place)
    return "".join(["#", *(f"/{step}" for step in steps)])


def _refers(part: Any) -> bool:
    return isinstance(part, dict) and "$ref" in part


def _inner(schema: Any, place: Path, part: Any) -> Iterator[tuple[Path, Any]]:
    """The schemas that an answer to this part must follow, and their places."""
    for path, child in _subschemas(part):
        if path[0] not in _DEFINITIONS:
            yield (*place, *path), child
    yield from _referred(schema, part)


def _referred(schema: Any, part: dict[str, Any]) -> Iterator[tuple[Path, Any]]:
    """What a reference of this part leads to inside the schema, and its place."""
    reference = part.get("$ref")
    if not (isinstance(reference, str) and reference.startswith("#/")):
        return
    found, place = schema, []
    for text in unquote(reference[2:]).split("/"):
        step: str | int = text.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and text.isdecimal():
            step = int(text)
        try:
            found = found[step]
        except (KeyError, IndexError, TypeError):
            return
        place.append(step)
    yield tuple(place), found


def _subschemas(schema: dict[str, Any]) -> Iterator[tuple[Path, Any]]:
    for name, value in schema.items():
        if name in _LISTS and isinstance(value, list):
            yield from (((name, index), item) for index, item in enumerate(value))
        elif name in _ONE:
            yield (name,), value
        elif name in _BY_NAME and isinstance(value, dict):
            yield from (((name, key), item) for key, item in value.items())


def _named(part: dict[str, Any], keyword: str) -> dict[str, Any]:
    found = part.get(keyword)
    return found if isinstance(found, dict) else {}


def _written(schema: dict[str, Any]) -> str:
    return json.dumps({**schema, "x-guidance": _WRITTEN}, ensure_ascii=False)
