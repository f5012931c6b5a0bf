"""POST /tokenize."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asteady._base.requests import Kind
from asteady._session.generation import ask_tokens, context_of
from asteady.server._openai.chat import CHAT_FIELDS, chat_options
from asteady.server._openai.endpoint import Asked, Endpoint, Reply
from asteady.server._openai.errors import refused
from asteady.server._openai.options import check_fields
from asteady.server._web.hang_up import until_hang_up

_SUBJECTS = ("messages", "prompt", "input")


class Tokenize(Endpoint):
    """The tokens of a chat, a text as it is, or a text to embed, as the model would be given."""

    conversation = "messages"

    async def reply(self, asked: Asked) -> Reply:
        body = asked.body
        given = [name for name in _SUBJECTS if body.get(name) is not None]
        if len(given) != 1:
            raise refused("messages", "one of messages, prompt and input (to embed) is needed")
        check_fields(body, CHAT_FIELDS | {*_SUBJECTS, "mode"})
        kind: Kind = "embedding" if given == ["input"] else "generation"
        options: Any = {}
        prompt = mode = None
        if given == ["messages"]:
            options = chat_options(body, self.most_tokens)
        else:
            prompt = _text(body, given[0])
        if kind == "embedding":
            mode = body.get("mode")
        elif prompt is not None:
            options = {"raw": True}
        _, reference = self.served.find(kind, body.get("model"))
        context = context_of(self.session)
        tokens = await until_hang_up(
            asked.receive,
            ask_tokens(
                context, "tokenize", prompt, reference, kind, mode, options, lambda _, found: found
            ),
        )
        return Reply({"count": len(tokens), "tokens": tokens})


def _text(body: Mapping[str, Any], param: str) -> str:
    text = body[param]
    if not isinstance(text, str):
        raise refused(param, "a text is needed")
    return text
