"""Run a GGUF model greedily through llama.cpp's low-level API: what `evaluate.py` measures with.

Imports nothing of asteady, so that the figures do not depend on the library they ship with.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

_quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)


class Runner:
    """One model and one context; lives as long as its `with` block."""

    def __init__(self, path: Path, context: int = 2048, threads: int = 1) -> None:
        llama_cpp.llama_log_set(_quiet, ctypes.c_void_p())
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        # Repacked weights crash on builds that announce AMX.
        params.use_extra_bufts = False
        self.model: Any = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise RuntimeError(f"{path} does not load")
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = context
        settings.n_threads = settings.n_threads_batch = threads
        self.context: Any = llama_cpp.llama_init_from_model(self.model, settings)
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.size = llama_cpp.llama_vocab_n_tokens(self.vocab)

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *exc: object) -> None:
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)

    def tokens(self, text: str, special: bool = False) -> list[int]:
        raw = text.encode()
        room = (llama_cpp.llama_token * (len(raw) + 8))()
        count = llama_cpp.llama_tokenize(self.vocab, raw, len(raw), room, len(room), False, special)
        return list(room[:count])

    def piece(self, token: int) -> bytes:
        room = ctypes.create_string_buffer(256)
        count = llama_cpp.llama_token_to_piece(self.vocab, token, room, 256, 0, True)
        return room.raw[:count]

    def _decode(self, tokens: list[int], all_logits: bool) -> NDArray[np.float32]:
        count = len(tokens)
        batch = llama_cpp.llama_batch_init(count, 0, 1)
        start = llama_cpp.llama_memory_seq_pos_max(self.memory, 0) + 1
        batch.n_tokens = count
        for i, token in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = start + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = all_logits or i == count - 1
        if llama_cpp.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        llama_cpp.llama_batch_free(batch)
        rows = count if all_logits else 1
        pointer = llama_cpp.llama_get_logits(self.context)
        return np.ctypeslib.as_array(pointer, shape=(rows, self.size)).copy()

    @property
    def memory(self) -> Any:
        return llama_cpp.llama_get_memory(self.context)

    def stream(self, prompt: list[int], limit: int) -> Iterator[int]:
        """Greedy tokens after `prompt`, up to the end token (not given) or `limit` of them."""
        llama_cpp.llama_memory_clear(self.memory, True)
        logits = self._decode(prompt, False)
        for _ in range(limit):
            token = int(logits[0].argmax())
            if llama_cpp.llama_vocab_is_eog(self.vocab, token):
                return
            yield token
            logits = self._decode([token], False)

    def answer(self, prompt: str, limit: int = 128, system: str = "") -> tuple[str, bool]:
        """The answer to one chat message, and whether it ended by itself."""
        start = self.tokens("<|system|>", True) + self.tokens(system) if system else []
        start += self.tokens("<|end|>", True) if system else []
        ids = [
            *start,
            *self.tokens("<|user|>", True),
            *self.tokens(prompt.strip()),
            *self.tokens("<|end|><|assistant|>", True),
        ]
        said = list(self.stream(ids, limit))
        text = b"".join(self.piece(token) for token in said).decode("utf-8", "replace")
        return text, len(said) < limit

    def losses(self, tokens: list[int]) -> NDArray[np.float64]:
        """Minus the log-probability of each token after the first."""
        llama_cpp.llama_memory_clear(self.memory, True)
        logits = self._decode(tokens, True)[:-1].astype(np.float64)
        top = logits.max(axis=1)
        total = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
        said: NDArray[np.float64] = total - logits[np.arange(len(tokens) - 1), tokens[1:]]
        return said
