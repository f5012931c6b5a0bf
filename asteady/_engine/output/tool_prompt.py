"""Tools as plain messages, for models whose chat templates do not know them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_PROMPT = """\
You can call functions. These are their definitions:
{definitions}
To call a function, answer with nothing but its name and arguments as JSON, like this:
<tool_call>
{{"name": "<name>", "arguments": {{...}}}}
</tool_call>
You are told its result in <tool_response>. If no function helps, answer as usual."""


def as_plain_messages(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Messages of the roles system, user and assistant only.

    Definitions are added to the system message, which is made if there is none. Calls are written
    into the text of the assistant's message, and results, next to each other in one message, are
    the user's.
    """
    plain: list[dict[str, Any]] = []
    for message in messages:
        content = message.get("content") or ""
        if message["role"] == "tool":
            text = f"<tool_response>\n{content}\n</tool_response>"
            if plain and plain[-1].get("results"):
                plain[-1]["content"] += "\n" + text
            else:
                plain.append({"role": "user", "content": text, "results": True})
            continue
        calls = [_call_text(call["function"]) for call in message.get("tool_calls", ())]
        rest = {key: item for key, item in message.items() if key != "tool_calls"}
        plain.append({**rest, "content": "\n".join(text for text in (content, *calls) if text)})
    for message in plain:
        message.pop("results", None)
    if not tools:
        return plain
    prompt = _PROMPT.format(
        definitions="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    )
    first = plain[0]
    if first["role"] in ("system", "developer"):
        return [{**first, "content": f"{first['content']}\n\n{prompt}"}, *plain[1:]]
    return [{"role": "system", "content": prompt}, *plain]


def without_system(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The system message as the beginning of the user's first, for templates that refuse it."""
    first, *rest = (dict(message) for message in messages)
    if first["role"] == "system" and rest and rest[0]["role"] == "user":
        rest[0]["content"] = f"{first['content']}\n\n{rest[0]['content']}"
        return rest
    return [first, *rest]


def _call_text(function: Mapping[str, Any]) -> str:
    call = {"name": function["name"], "arguments": function["arguments"]}
    return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"
