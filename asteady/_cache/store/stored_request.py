"""The request that an entry keeps beside its answer, as a line of JSON.

Nothing is answered by it. It shows a person what was asked, and lets an answer be computed again
for comparison. The key of an entry is a digest of its request, so a kept request needs no checksum:
it is believed when it leads to the key.
"""

from __future__ import annotations

import json
from typing import Any, TypeAlias

import attrs

from asteady._base.requests import EmbedRequest, GenerateRequest, Key

Request: TypeAlias = GenerateRequest | EmbedRequest

# What is shown of a prompt in lists.
PROMPT_CHARACTERS = 200

_DEFAULTS = {
    GenerateRequest: attrs.asdict(GenerateRequest.of("-"), recurse=False) | {"prompt": None},
    EmbedRequest: attrs.asdict(EmbedRequest.of("-"), recurse=False) | {"text": None},
}


def arguments(request: Request) -> dict[str, Any]:
    """What `Session.generate` or `Session.embed` was called with, without defaults."""
    changed = {
        name: value
        for name, default in _DEFAULTS[type(request)].items()
        if (value := getattr(request, name)) != default
    }
    if "messages" in changed:
        changed["messages"] = [
            {"role": role, "content": content} for role, content in changed["messages"]
        ]
    if "logit_bias" in changed:
        changed["logit_bias"] = dict(changed["logit_bias"])
    return changed


def kept_text(request: Request, limit_bytes: int) -> str | None:
    """The request as JSON; None if it takes more bytes."""
    prompt = request.text if isinstance(request, EmbedRequest) else request.prompt
    # Long texts are found out before they are written.
    if prompt is not None and len(prompt) > limit_bytes:
        return None
    text = json.dumps(arguments(request), ensure_ascii=False, separators=(",", ":"))
    return text if len(text.encode()) <= limit_bytes else None


def request_of(text: str) -> Request:
    """What `kept_text` wrote, validated like any other request.

    Raises:
        ValueError: it is no request.
    """
    try:
        fields = json.loads(text)
        if "text" in fields:
            return EmbedRequest.of(**fields)
        if "logit_bias" in fields:
            # JSON's keys are strings.
            biases = fields["logit_bias"].items()
            fields["logit_bias"] = {int(token): bias for token, bias in biases}
        return GenerateRequest.of(**fields)
    except Exception as exc:
        # Whatever a file that somebody made comes up with: too deep, of other types, ...
        raise ValueError("it is no request") from exc


def believed(text: object, key: Key, fingerprint: str) -> Request | None:
    """The request, if it is this entry's; None if it is another's, or none."""
    if not isinstance(text, str):
        return None
    try:
        request = request_of(text)
    except ValueError:
        return None
    return request if request.key(fingerprint) == key else None


def prompt_of(request: Request) -> str:
    """What was asked, in short: the prompt, the last message, or the text."""
    if isinstance(request, EmbedRequest):
        return request.text
    return request.messages[-1][1] if request.prompt is None else request.prompt


def beginning(text: str | None) -> str | None:
    """The beginning of the prompt in a kept request, which is not checked."""
    if text is None:
        return None
    try:
        return prompt_of(request_of(text))[:PROMPT_CHARACTERS]
    except ValueError:
        return None


def shown(prompt: str, characters: int = 60) -> str:
    """On one line, in quotes, cut; nothing in it reaches a terminal as a control character."""
    return repr(prompt if len(prompt) <= characters else prompt[: characters - 3] + "...")
