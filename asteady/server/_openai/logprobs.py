"""Log probabilities as OpenAI's API has them."""

from __future__ import annotations

from typing import Any

from asteady._base.requests import TokenLogprob


def logprob_record(token: TokenLogprob) -> dict[str, Any]:
    """One token of an answer, and the most likely ones in its place. The ids are no part of
    OpenAI's API, and known from llama.cpp's server."""
    return {
        **_token(token.token_id, token.token, token.logprob),
        "top_logprobs": [_token(*each) for each in token.top],
    }


def _token(identified: int, token: bytes, logprob: float) -> dict[str, Any]:
    return {
        "id": identified,
        "token": token.decode("utf-8", "replace"),
        "logprob": logprob,
        "bytes": list(token),
    }
