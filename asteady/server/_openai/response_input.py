"""From the items of a request to /responses to messages, as a chat has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asteady.server._openai.errors import refused

Message = dict[str, Any]

_ITEMS = "message, function_call, function_call_output and reasoning"
_TEXTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}


def messages_of_items(given: object, instructions: object = None) -> list[Message]:
    """The messages that `input` and `instructions` stand for, in OpenAI's form.

    A text is a message of the user, and instructions are a first message of the system. Calls of
    functions, and the reasoning before them, belong to the assistant's message that they follow: an
    answer that is sent back becomes the message that `Completion.message` makes of it.

    Raises:
        ApiError: an item is of a type that is not known, or lacks something.
    """
    conversation = _Conversation()
    if instructions is not None:
        if not isinstance(instructions, str):
            raise refused("instructions", "a text is needed")
        conversation.add({"role": "system", "content": instructions})
    if isinstance(given, str):
        conversation.add({"role": "user", "content": given})
    elif isinstance(given, list):
        if not given:
            raise refused("input", "at least one item is needed, or a text")
        for at, item in enumerate(given):
            conversation.add_item(f"input[{at}]", item)
    else:
        raise refused("input", "a text is needed, or a list of items")
    return conversation.messages


class _Conversation:
    """Collects the messages of one request."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._reasoning: list[str] = []

    def add(self, message: Message) -> None:
        """Put a message at the end. Reasoning before it is the assistant's, or is dropped."""
        if self._reasoning:
            if message["role"] == "assistant":
                message["reasoning_content"] = "".join(self._reasoning)
            self._reasoning.clear()
        self.messages.append(message)

    def add_item(self, where: str, item: object) -> None:
        if not isinstance(item, Mapping):
            raise refused(where, f"an object is needed: {_ITEMS}")
        kind = item.get("type") or ("message" if "role" in item else None)
        if kind == "message":
            content = _content(f"{where}.content", item.get("content"))
            role = _text(where, item, "role")
            # Templates do not know OpenAI's newer name of the system's role.
            self.add({"role": "system" if role == "developer" else role, "content": content})
        elif kind == "function_call":
            self._add_call(where, item)
        elif kind == "function_call_output":
            output = _content(f"{where}.output", item.get("output"))
            call_id = _text(where, item, "call_id")
            self.add({"role": "tool", "tool_call_id": call_id, "content": output})
        elif kind == "reasoning":
            # A summary, or what another server encrypted, is nothing that a model has written.
            written = item.get("content")
            for part in written if isinstance(written, list) else ():
                if isinstance(part, Mapping) and isinstance(part.get("text"), str):
                    self._reasoning.append(part["text"])
        elif kind == "item_reference":
            raise refused(
                where,
                "no responses are stored here that it could refer to: send the item itself, which "
                "clients do with store=False",
            )
        else:
            raise refused(f"{where}.type", f"{kind!r} is not known; there are {_ITEMS}"[:200])

    def _add_call(self, where: str, item: Mapping[str, Any]) -> None:
        function = {name: _text(where, item, name) for name in ("name", "arguments")}
        call = {"id": _text(where, item, "call_id"), "type": "function", "function": function}
        last = self.messages[-1] if self.messages else None
        if last is None or last["role"] != "assistant" or self._reasoning:
            self.add({"role": "assistant", "content": None, "tool_calls": [call]})
        else:
            last.setdefault("tool_calls", []).append(call)


def _text(where: str, item: Mapping[str, Any], name: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise refused(f"{where}.{name}", f"a text is needed, not {value!r}"[:200])
    return value


def _content(where: str, content: object) -> str | list[dict[str, str]]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise refused(where, "a text is needed, or a list of parts")
    parts = []
    for at, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        name = _TEXTS.get(kind) if isinstance(kind, str) else None
        if name is None:
            raise refused(
                f"{where}[{at}].type",
                f"{kind!r} is not known; there are input_text and output_text"[:200],
            )
        parts.append({"type": "text", "text": _text(f"{where}[{at}]", part, name)})
    return parts
