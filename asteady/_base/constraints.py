"""The form that an answer must have: a JSON schema, choices, a regular expression or a grammar.

Nothing here compiles anything: that needs a model's vocabulary.
"""

from __future__ import annotations

import functools
import json
from typing import Any, Literal, TypeAlias

import attrs

from asteady._base import validation
from asteady._base.errors import InvalidRequestError
from asteady._base.forms import form_of
from asteady._base.public import public
from asteady._base.validation import refuse

ConstraintKind: TypeAlias = Literal["json", "choices", "regex", "lark"]

# A form is compiled in a thread that other requests need too. So much takes a second or two:
# optional characters in a row take the square of their number.
MAX_CONSTRAINT_CHARACTERS = {"schema": 2**19, "choices": 2**19, "regex": 2**13, "grammar": 2**14}
MAX_CHOICES = 10_000

# One of these tells a schema from what was taken for one, such as an example.
_KEYWORDS = (
    "$anchor $comment $defs $dynamicAnchor $dynamicRef $id $ref $schema $vocabulary additionalItems"
    " additionalProperties allOf anyOf const contains contentEncoding contentMediaType"
    " contentSchema default definitions dependencies dependentRequired dependentSchemas deprecated"
    " description discriminator else enum examples exclusiveMaximum exclusiveMinimum format id if"
    " items maxContains maxItems maxLength maxProperties maximum minContains minItems minLength"
    " minProperties minimum multipleOf not nullable oneOf pattern patternProperties prefixItems"
    " properties propertyNames readOnly required then title type unevaluatedItems"
    " unevaluatedProperties uniqueItems writeOnly"
)

# Part of the keys of answers with a form. Raise it when the engine makes another grammar of it.
_FORM_VERSION = 1


@public
@attrs.frozen
class Constraint:
    """A form in canonical form.

    `source` is the JSON schema without spaces and with its keys in the given order, which is that
    of the properties in the answer; a JSON list of the choices, sorted; the regular expression; or
    the grammar in Lark's syntax.
    """

    kind: ConstraintKind
    source: str

    def key(self) -> tuple[str, str, str, int]:
        """Its part of a request's key; another version of the library may allow other tokens."""
        return self.kind, self.source, *form_version()

    def arguments(self) -> dict[str, Any]:
        """The argument of `Session.generate` that gives it."""
        if self.kind == "json":
            return {"schema": json.loads(self.source)}
        return self.as_texts()

    def as_texts(self) -> dict[str, Any]:
        """As `arguments`, with a schema as JSON."""
        if self.kind == "choices":
            return {"choices": self.choices}
        names = {"json": "schema", "regex": "regex", "lark": "grammar"}
        return {names[self.kind]: self.source}

    @property
    def choices(self) -> list[str]:
        """The choices, if it has them."""
        found: list[str] = json.loads(self.source)
        return found


def constraint_of(
    *,
    schema: Any = None,
    choices: Any = None,
    regex: str | None = None,
    grammar: str | None = None,
) -> Constraint | None:
    """The one that is given; None if none is.

    Raises:
        InvalidRequestError: more than one is given, or it is not allowed.
        SettingsError: the schema is a type that needs pydantic, which is not installed.
    """
    given = {"schema": schema, "choices": choices, "regex": regex, "grammar": grammar}
    names = [name for name, value in given.items() if value is not None]
    if not names:
        return None
    if len(names) > 1:
        raise InvalidRequestError(f"give one of {', '.join(names)}: an answer has one form")
    (name,) = names
    if name == "schema":
        constraint = Constraint("json", _json(form_of(schema, None).options["schema"]))
    elif name == "choices":
        constraint = Constraint("choices", _choices(form_of(None, choices).options["choices"]))
    else:
        kind: ConstraintKind = "regex" if name == "regex" else "lark"
        source = validation.text(name, given[name])
        if not source:
            raise refuse(name, source, "it must have at least one character")
        constraint = Constraint(kind, source)
    if len(constraint.source) > (most := MAX_CONSTRAINT_CHARACTERS[name]):
        raise InvalidRequestError(
            f"{name} has {len(constraint.source):,} characters, and may have at most {most:,}"
        )
    return constraint


def check_length(constraint: Constraint | None, most: int | None) -> None:
    """
    Raises:
        InvalidRequestError: it has more characters than the setting allows.
    """
    if constraint is not None and most is not None and len(constraint.source) > most:
        (name,) = constraint.as_texts()
        raise InvalidRequestError(
            f"{name} has {len(constraint.source):,} characters, and may have at most {most:,} here"
            " (form_max_characters, ASTEADY_FORM_MAX_CHARACTERS)"
        )


def _json(text: str) -> str:
    try:
        value = json.loads(validation.text("schema", text))
    except (ValueError, RecursionError) as exc:
        raise refuse("schema", text, f"it is not JSON: {exc}") from None
    if value is True:
        value = {}  # which means the same: any JSON
    if not isinstance(value, dict) or (value and value.keys().isdisjoint(_KEYWORDS.split())):
        # Without a keyword it would allow any JSON.
        raise refuse("schema", text, 'a JSON schema, such as {"type": "object", ...}, is needed')
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _choices(choices: tuple[object, ...]) -> str:
    for at, item in enumerate(choices):
        if not isinstance(item, str):
            raise refuse(
                f"choices[{at}]", item, "a str is needed; schema=Literal[...] takes other values"
            )
    texts = {validation.text("choices", item) for item in choices}
    if not texts or "" in texts:
        raise refuse("choices", choices, "at least one choice, each of at least one character")
    if len(texts) > MAX_CHOICES:
        raise InvalidRequestError(f"{len(texts):,} choices are too many: at most {MAX_CHOICES:,}")
    return json.dumps(sorted(texts), ensure_ascii=False)


def form_version() -> tuple[str, int]:
    """What decides which tokens a form allows: a part of the keys of all answers that have one."""
    return _library_version(), _FORM_VERSION


@functools.cache
def _library_version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # only for this: it takes 15 ms

    try:
        return version("llguidance")
    except PackageNotFoundError:
        return ""
