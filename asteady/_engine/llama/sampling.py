"""Sampling: llama.cpp's native sampler chains, and log-probabilities of the raw logits."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from asteady._base.requests import GenerateRequest, TokenLogprob
from asteady._engine.llama.lib import check
from asteady._engine.llama.vocab import Vocab

# The penalties count this many of the answer's last tokens: llama.cpp's default.
PENALTY_TOKENS = 64

# Up to this many largest values, repeated argmax is faster than a partition.
_FEW = 16


def make_sampler(request: GenerateRequest, vocabulary_size: int) -> Any:
    """A native sampler chain for one answer; free it with ``llama_sampler_free``.

    llama.cpp's order: bias, penalties, top_k, typical_p, top_p, min_p, temperature, draw. The
    penalties count the answer's tokens, not the prompt's.
    """
    parameters = llama_cpp.llama_sampler_chain_default_params()
    parameters.no_perf = True
    chain = check(llama_cpp.llama_sampler_chain_init(parameters), "make a sampler")

    def add(sampler: Any) -> None:
        llama_cpp.llama_sampler_chain_add(chain, check(sampler, "make a sampler"))

    if request.logit_bias:
        pairs = [llama_cpp.llama_logit_bias(*pair) for pair in request.logit_bias]
        biases = (llama_cpp.llama_logit_bias * len(pairs))(*pairs)
        add(llama_cpp.llama_sampler_init_logit_bias(vocabulary_size, len(biases), biases))
    penalties = (request.repeat_penalty, request.frequency_penalty, request.presence_penalty)
    if penalties != (1.0, 0.0, 0.0):
        add(llama_cpp.llama_sampler_init_penalties(vocabulary_size, PENALTY_TOKENS, *penalties))
    if request.temperature == 0.0:
        add(llama_cpp.llama_sampler_init_greedy())
        return chain
    if request.top_k:
        add(llama_cpp.llama_sampler_init_top_k(request.top_k))
    if request.typical_p < 1.0:
        add(llama_cpp.llama_sampler_init_typical(request.typical_p, 1))
    if request.top_p < 1.0:
        add(llama_cpp.llama_sampler_init_top_p(request.top_p, 1))
    if request.min_p > 0.0:
        add(llama_cpp.llama_sampler_init_min_p(request.min_p, 1))
    add(llama_cpp.llama_sampler_init_temp(request.temperature))
    add(llama_cpp.llama_sampler_init_dist(request.seed))
    return chain


def logprob_of(context: Any, place: int, token: int, count: int, vocab: Vocab) -> TokenLogprob:
    """The log-probabilities, at one place of the last batch, of `token` and the `count` most
    likely tokens.

    Computed from the raw logits in float64; equal ones are ordered by token id. Call it before
    the context decodes again.
    """
    pointer = check(llama_cpp.llama_get_logits_ith(context, place), "give the logits")
    raw = np.ctypeslib.as_array(
        ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), shape=(vocab.size,)
    )
    logits = raw.astype(np.float64)
    peak = logits.max()
    total = float(peak + np.log(np.exp(logits - peak).sum()))
    top = tuple(
        (index, vocab.piece(index), float(logits[index]) - total)
        for index in _most_likely(raw, min(count, vocab.size))
    )
    return TokenLogprob(
        token_id=token,
        token=vocab.piece(token),
        logprob=float(logits[token]) - total,
        top=top,
    )


def _most_likely(raw: NDArray[np.float32], count: int) -> list[int]:
    """The indices of the `count` largest values, largest first; equal ones by index."""
    if count <= _FEW:
        rest = raw.copy()
        found = []
        for _ in range(count):
            index = int(rest.argmax())
            found.append(index)
            rest[index] = -np.inf
        return found
    # All values not below the smallest one wanted, so that of equal ones the first are chosen.
    least = np.partition(raw, raw.size - count)[raw.size - count]
    chosen = np.flatnonzero(raw >= least)
    order = np.lexsort((chosen, -raw[chosen]))[:count]
    return [int(index) for index in chosen[order]]
