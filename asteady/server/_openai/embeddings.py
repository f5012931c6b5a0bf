"""POST /embeddings."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import numpy as np

from asteady._base.options import EmbedOptions
from asteady._base.requests import Embedding
from asteady._base.tasks import map_concurrently
from asteady._session.calls import embedding_call
from asteady._session.generation import context_of
from asteady._session.pipeline import CacheMode, Joined
from asteady.server._openai.endpoint import Asked, Endpoint, Reply, json_bytes
from asteady.server._openai.errors import refused
from asteady.server._openai.options import check_fields
from asteady.server._openai.texts import texts_of
from asteady.server._web.hang_up import until_hang_up

# The last two are no part of OpenAI's API.
_OPTIONS = ("dimensions", "mode", "truncate")
_KNOWN = frozenset({"model", "input", "encoding_format", *_OPTIONS})
_MOST_TEXTS = 2048
# To write one vector as JSON takes a tenth of a millisecond or more; after so many other tasks run.
_TURN = 16
# Each further one would wait in the queue of the library, which is bounded too.
_AT_ONCE = 32
# The rarest first: what the whole answer took.
_OUTCOMES = ("computed", "coalesced", "shared", "disk", "memory")


class Embeddings(Endpoint):
    """Vectors of texts, of norm 1."""

    subject = "input"

    async def reply(self, asked: Asked) -> Reply:
        body = asked.body
        check_fields(body, _KNOWN)
        name, reference = self.served.find("embedding", body.get("model"))
        given = body.get("input")
        texts = await texts_of(self.session, "embedding", reference, "input", given, _MOST_TEXTS)
        coding = body.get("encoding_format")
        if coding not in (None, "float", "base64"):
            raise refused("encoding_format", f'"float" or "base64", not {coding!r}'[:200])
        options: Any = {option: body.get(option) for option in _OPTIONS}
        joined = await until_hang_up(
            asked.receive, self._embed(texts, reference, asked.mode, options)
        )
        tokens = sum(each.result().tokens for each in joined)
        outcomes = {each.outcome for each in joined}
        headers: dict[str, str] = {"x-asteady-cache": next(o for o in _OUTCOMES if o in outcomes)}
        if len(joined) == 1:
            headers["x-asteady-key"] = str(joined[0].key)
        content = {
            "object": "list",
            "model": name,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            "data": [],
        }
        begin = json_bytes(content).removesuffix(b"]}")
        rows = await _rows(joined, coding)
        return Reply(b"".join([begin, b",".join(rows), b"]}"]), lambda: headers)

    async def _embed(
        self, texts: list[str], model: str, mode: CacheMode, options: EmbedOptions
    ) -> list[Joined[Embedding]]:
        """The places in the answers, all of which are there."""
        context = context_of(self.session)

        async def embed(text: str) -> Joined[Embedding]:
            call = await embedding_call(context, text, model, mode, options)
            joined = await context.embedding.join(call)
            await joined.wait()
            return joined

        return await map_concurrently(embed, texts, limit=_AT_ONCE, name="input")


async def _rows(found: list[Joined[Embedding]], coding: str | None) -> list[bytes]:
    rows = []
    for index, each in enumerate(found):
        embedding = each.result()
        row = {
            "object": "embedding",
            "index": index,
            "embedding": _coded(embedding, coding),
            "tokens": embedding.tokens,
            "key": str(each.key),
        }
        if embedding.truncated:
            row["truncated"] = True
        rows.append(json_bytes(row))
        if index % _TURN == _TURN - 1:
            await asyncio.sleep(0)
    return rows


def _coded(embedding: Embedding, coding: str | None) -> str | list[float]:
    vector = embedding.vector.astype(np.dtype("<f4"), copy=False)
    if coding == "base64":
        return base64.b64encode(vector.tobytes()).decode()
    numbers: list[float] = vector.tolist()
    return numbers
