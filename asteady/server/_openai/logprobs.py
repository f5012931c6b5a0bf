"""Log probabilities as OpenAI's API has them."""

from __future__ import annotations

from typing import Any

from asteady._base.requests import TokenLogprob


def logprob_record(token: TokenLogprob) -> dict[str, Any]:
    """One token of an answer, and the most likely ones in its place."""
    return {
        **_token(token.token, token.logprob),
        "top_logprobs": [_token(text, logprob) for _, text, logprob in token.top],
    }


def _token(token: bytes, logprob: float) -> dict[str, Any]:
    return {"token": token.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(token)}
