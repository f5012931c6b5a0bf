"""POST /embeddings."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from asteady._base.requests import Embedding
from asteady._base.tasks import map_concurrently
from asteady._session.observe import Observed
from asteady.server._openai.endpoint import Asked, Endpoint, Reply
from asteady.server._openai.errors import refused
from asteady.server._openai.hang_up import until_hang_up
from asteady.server._openai.texts import texts_of

_MOST_TEXTS = 2048
# Each further one would wait in the queue of the library, which is bounded too.
_AT_ONCE = 32
# The rarest first: what the whole answer took.
_OUTCOMES = ("computed", "coalesced", "disk", "memory")


class Embeddings(Endpoint):
    """Vectors of texts, of norm 1."""

    async def reply(self, asked: Asked) -> Reply:
        body = asked.body
        name, reference = self.served.find("embedding", body.get("model"))
        given = body.get("input")
        texts = await texts_of(self.session, "embedding", reference, "input", given, _MOST_TEXTS)
        coding = body.get("encoding_format")
        if coding not in (None, "float", "base64"):
            raise refused("encoding_format", f'"float" or "base64", not {coding!r}'[:200])
        options = {"model": reference, "cache": asked.mode, "dimensions": body.get("dimensions")}
        seen: list[Observed] = []
        with self.session.observe(seen.append):
            found = await until_hang_up(asked.receive, self._embed(texts, options))
        data = [
            {"object": "embedding", "index": index, "embedding": _coded(embedding, coding)}
            for index, embedding in enumerate(found)
        ]
        tokens = sum(embedding.tokens for embedding in found)
        outcomes = {each.outcome for each in seen}
        headers = {"x-asteady-cache": next((o for o in _OUTCOMES if o in outcomes), "memory")}
        if len(seen) == 1:
            headers["x-asteady-key"] = str(seen[0].key)
        content = {
            "object": "list",
            "data": data,
            "model": name,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
        return Reply(content, headers)

    async def _embed(self, texts: list[str], options: dict[str, Any]) -> list[Embedding]:
        async def embed(text: str) -> Embedding:
            return await self.session.embedding(text, **options)

        return await map_concurrently(embed, texts, limit=_AT_ONCE, name="input")


def _coded(embedding: Embedding, coding: str | None) -> str | list[float]:
    vector = embedding.vector.astype(np.dtype("<f4"), copy=False)
    if coding == "base64":
        return base64.b64encode(vector.tobytes()).decode()
    return [float(number) for number in vector]
