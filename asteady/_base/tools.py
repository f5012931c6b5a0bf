"""Tools that a model may call, in canonical form: OpenAI's definitions, as JSON texts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from asteady._base.errors import InvalidRequestError
from asteady._base.functions import definition_of
from asteady._base.messages import canonical_json
from asteady._base.validation import refuse

AnyTool: TypeAlias = Mapping[str, Any] | Callable[..., Any]
"""What is accepted as a tool: a function with type hints, a pydantic model, or a definition."""

DEFAULT_CHOICE = "auto"
CHOICES = ("auto", "required", "none")
# No setting raises them: the prompt has all definitions, so a model's context ends sooner.
MAX_TOOLS = 256
# Of all definitions: their grammar is compiled in a thread that other requests need too. So much
# takes half a second.
MAX_CHARACTERS = 2**18
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def tools_of(value: object) -> tuple[str, ...]:
    """The definitions of tools, as JSON without spaces.

    Raises:
        InvalidRequestError: one is not allowed; the error names it by its index.
    """
    if value is None:
        return ()
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise refuse(
            "tools", value, "a list of functions, pydantic models, or definitions as OpenAI's"
        )
    found: dict[str, str] = {}
    for at, tool in enumerate(value):
        where = f"tools[{at}]"
        if at == MAX_TOOLS:
            raise InvalidRequestError(
                f"more than {MAX_TOOLS} tools are not allowed: give those that may be of use here"
            )
        definition = _definition(where, tool)
        name = definition["function"]["name"]
        if name in found:
            raise InvalidRequestError(f"{where}: two tools have the name {name!r}; rename one")
        found[name] = canonical_json(where, definition)
    if (characters := sum(map(len, found.values()))) > MAX_CHARACTERS:
        raise InvalidRequestError(
            f"the definitions of the tools have {characters:,} characters, and may have at most"
            f" {MAX_CHARACTERS:,}: give fewer, or shorten their descriptions"
        )
    return tuple(found.values())


def check_definitions(tools: Sequence[str], most: int | None) -> None:
    """
    Raises:
        InvalidRequestError: they have more characters together than the setting allows.
    """
    if most is not None and (characters := sum(map(len, tools))) > most:
        raise InvalidRequestError(
            f"the definitions of the tools have {characters:,} characters, and may have at most"
            f" {most:,} here (form_max_characters, ASTEADY_FORM_MAX_CHARACTERS)"
        )


def tool_choice_of(value: object, tools: Sequence[str]) -> str:
    """ "auto", "required", "none", or the name of one of these tools.

    Raises:
        InvalidRequestError: it is none of them, or asks for a call, and there are no tools.
    """
    if value is None:
        return DEFAULT_CHOICE
    names = [name_of(tool) for tool in tools]
    choice = value
    if isinstance(choice, Mapping):  # as OpenAI's API has it
        function = choice.get("function", choice)
        choice = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(choice, str) or choice not in (*CHOICES, *names):
        raise refuse(
            "tool_choice",
            value,
            '"auto", "required", "none" or the name of a tool'
            + (f": {', '.join(names)}" if names else "; there are no tools"),
        )
    if choice == "required" and not names:
        raise refuse("tool_choice", value, "there are no tools: give tools=[...]")
    return choice


def name_of(tool: str) -> str:
    """The name in a definition that is JSON."""
    name: str = json.loads(tool)["function"]["name"]
    return name


def _definition(where: str, tool: Any) -> dict[str, Any]:
    if isinstance(tool, Mapping):
        if (kind := tool.get("type", "function")) != "function":
            raise refuse(f"{where}['type']", kind, 'only the type "function" is known')
        function = tool.get("function")
        if function is None:
            function = {key: item for key, item in tool.items() if key != "type"}
        if not isinstance(function, Mapping):
            raise refuse(f"{where}['function']", function, "a mapping with a name")
    elif callable(tool):
        function = definition_of(where, tool)
    else:
        raise refuse(
            where, tool, "a function, a pydantic model, or a definition as OpenAI's API has it"
        )
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in CHOICES:
        raise refuse(
            f"{where}['function']['name']",
            name,
            "1 to 128 letters, digits, _, - or . of ASCII, and none of " + ", ".join(CHOICES),
        )
    where = f"{where}['function']['parameters']"
    parameters = function.get("parameters")
    if parameters is None:
        for key, item in function.items():
            if isinstance(item, Mapping):  # of other libraries: input_schema, inputSchema
                raise InvalidRequestError(
                    f"{where} is missing: give it what {key!r} has, if that is the JSON schema of"
                    " the arguments"
                )
        parameters = {}
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise refuse(where, parameters, 'a JSON schema of the type "object"')
    parameters = {"type": "object", "properties": {}, **parameters}
    return {
        "type": "function",
        "function": {
            **{key: item for key, item in function.items() if item is not None},
            "parameters": parameters,
        },
    }
