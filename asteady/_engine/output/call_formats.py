"""The formats in which models write calls of tools, as their chat templates tell, and grammars."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from asteady._engine.output.schemas import grammar_of

# Of one answer: a model that repeats itself would call until its tokens are used up.
MAX_CALLS = 16


@attrs.frozen
class CallFormat:
    """How a model calls tools.

    A call begins where one of `starts` appears in the text; with `only_first`, if the text begins
    with it. `separator` is what is between name and arguments where these are not one JSON object,
    whose key of the arguments is `key`.
    """

    starts: tuple[str, ...]
    rule: str
    key: str = "arguments"
    separator: str | None = None
    end: str | None = None
    only_first: bool = False

    @property
    def tags(self) -> tuple[str, ...]:
        """What may be control tokens of the model."""
        if self.only_first:
            return ()
        return tuple(tag for tag in (*self.starts, self.separator, self.end) if tag is not None)

    def grammar(self, tools: Sequence[str], choice: str, tokens: Mapping[str, int]) -> str:
        """Calls of these tools, of the chosen one once, as a grammar in Lark's syntax.

        `tokens` are the control tokens among the tags.
        """

        def tag(text: str | None) -> str:
            if text is None:
                return ""
            return f"<[{tokens[text]}]>" if text in tokens else json.dumps(text)

        functions = [json.loads(tool)["function"] for tool in tools]
        chosen = [function for function in functions if function["name"] == choice]
        rule = self.rule.format(start=tag(self.starts[0]), end=tag(self.end))
        lines = [rule.replace("MORE", f"~0..{0 if chosen else MAX_CALLS - 1}")]
        lines.append("call: " + " | ".join(f"c{at}" for at in range(len(chosen or functions))))
        for at, function in enumerate(chosen or functions):
            if self.separator is None:
                before = f'"name": {json.dumps(function["name"])}, "{self.key}": '
                kind = json.dumps('"type": "function", ') + "? " if self.only_first else ""
                lines.append(f'c{at}: "{{" {kind}{json.dumps(before)} a{at} "}}"')
            else:
                name = json.dumps(function["name"])
                lines.append(f"c{at}: {name} {tag(self.separator)} a{at}")
            lines.append(f"a{at}: %json {grammar_of(json.dumps(schema_of(function)))}")
        return "\n".join([*lines, "SPACE: /[ \\n]/", ""])


def schema_of(function: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON schema of the arguments of a call: with no others than are named, unless the
    definition says so."""
    parameters = function["parameters"]
    closed = {} if "patternProperties" in parameters else {"additionalProperties": False}
    return {**closed, **parameters}


HERMES = CallFormat(
    ("<tool_call>",),
    "start: one (SPACE? one)MORE\none: {start} SPACE? call SPACE? {end}",
    end="</tool_call>",
)
NEUTRAL = attrs.evolve(
    HERMES, rule="start: {start} SPACE? call SPACE? {end}"
)  # one call, as models do that were not trained for it
_LLAMA = CallFormat(
    ('{"name": "', '{"type": "function", "name": "'),
    "start: call",
    key="parameters",
    only_first=True,
)
_MISTRAL = CallFormat(("[TOOL_CALLS]",), 'start: {start} SPACE? "[" call (", " call)MORE "]"')
_MISTRAL_ARGS = CallFormat(
    ("[TOOL_CALLS]",), "start: one (one)MORE\none: {start} call", separator="[ARGS]"
)

# What a template writes behind the tag is the JSON, perhaps in another literal.
_HERMES_SIGN = re.compile(r"""<tool_call>(?:\\[n"]|[\s"'{}~+-])*name\\?": """)
_LLAMA_SIGN = '"parameters": dictionary of argument name'


def format_of(template: str) -> CallFormat | None:
    """The format that a chat template tells its model to call tools in, if it is known."""
    if "[TOOL_CALLS]" in template:
        return _MISTRAL_ARGS if "[ARGS]" in template else _MISTRAL
    if _LLAMA_SIGN in template:
        return _LLAMA
    return HERMES if _HERMES_SIGN.search(template) else None
