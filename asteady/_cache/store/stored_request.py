"""The request that is stored beside an answer, as a line of JSON.

It shows a person what the answer is for, and lets the answer be computed again for comparison. The
key of an entry is a digest of its request, so a stored request needs no checksum: it is trusted
only if it hashes to the key.
"""

from __future__ import annotations

import json
from typing import Any, TypeAlias

import attrs

from asteady._base.requests import EmbedRequest, GenerateRequest, Key, namespace_path
from asteady._base.validation import shorten

Request: TypeAlias = GenerateRequest | EmbedRequest

# Stored with the arguments, but none of them: it comes from the namespace.
_ISOLATION = "isolation"

# How a request begins the number of dimensions it asks for: JSON escapes it in any text.
DIMENSIONS_FIELD = '"dimensions":'
# Of a prompt in lists.
PROMPT_CHARACTERS = 200

_DEFAULTS = {
    GenerateRequest: attrs.asdict(GenerateRequest.of("-"), recurse=False) | {"prompt": None},
    EmbedRequest: attrs.asdict(EmbedRequest.of("-"), recurse=False) | {"text": None},
}


def arguments(request: Request) -> dict[str, Any]:
    """The arguments of `Session.generate` or `Session.embed` for it, without defaults."""
    changed = {
        name: value
        for name, default in _DEFAULTS[type(request)].items()
        if name != _ISOLATION and (value := getattr(request, name)) != default
    }
    if "messages" in changed:
        changed["messages"] = [message.as_dict() for message in changed["messages"]]
    if constraint := changed.pop("constraint", None):
        changed |= constraint.arguments()
    if variables := changed.get("chat_template_kwargs"):
        changed["chat_template_kwargs"] = {name: json.loads(text) for name, text in variables}
    if tools := changed.get("tools"):
        changed["tools"] = [json.loads(tool) for tool in tools]
    if "logit_bias" in changed:
        changed["logit_bias"] = dict(changed["logit_bias"])
    return changed


def to_json(request: Request, limit_bytes: int) -> str | None:
    """The request as JSON; None if that is longer than the limit."""
    prompt = request.text if isinstance(request, EmbedRequest) else request.prompt
    # A long prompt is refused before it is serialised.
    if prompt is not None and len(prompt) > limit_bytes:
        return None
    fields = arguments(request)
    if request.isolation is not None:
        fields[_ISOLATION] = request.isolation
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    return text if len(text.encode()) <= limit_bytes else None


def from_json(text: str) -> Request:
    """The request of `to_json`, validated like any other.

    Raises:
        ValueError: the text is not a request.
    """
    try:
        fields = json.loads(text)
        isolation = fields.pop(_ISOLATION, None)
        if isolation is not None:
            isolation = namespace_path(isolation)
        if "text" in fields:
            return attrs.evolve(EmbedRequest.of(**fields), isolation=isolation)
        return attrs.evolve(GenerateRequest.of(**fields), isolation=isolation)
    except Exception as exc:
        # A hostile file may hold anything: JSON nested too deep, other types, ...
        raise ValueError("the text is not a request") from exc


def verified(text: object, key: Key, fingerprint: str) -> Request | None:
    """The request, if it hashes to the key with this fingerprint; otherwise None."""
    if not isinstance(text, str):
        return None
    try:
        request = from_json(text)
    except ValueError:
        return None
    return request if request.key(fingerprint) == key else None


def prompt_of(request: Request) -> str:
    """The prompt, the last message, or the text of a request."""
    if isinstance(request, EmbedRequest):
        return request.text
    return request.conversation()[-1].content or ""


def preview(text: str | None) -> str | None:
    """The beginning of the prompt in a stored request, which is not checked against a key."""
    if text is None:
        return None
    try:
        return prompt_of(from_json(text))[:PROMPT_CHARACTERS]
    except ValueError:
        return None


def quoted(prompt: str, characters: int = 60) -> str:
    """Shortened, on one line, in quotes, with control characters escaped."""
    return repr(shorten(prompt, characters))
