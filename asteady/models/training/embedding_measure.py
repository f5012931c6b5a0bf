"""The figures of the embedding model, measured on the GGUF file through llama.cpp."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import llama_cpp
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


class GgufEncoder:
    """A GGUF embedding model on one thread; a context manager that frees the model."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        llama_cpp.llama_backend_init()
        self._callback = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._callback, ctypes.c_void_p())
        model_params = llama_cpp.llama_model_default_params()
        model_params.use_extra_bufts = False
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_params)
        if model is None:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self._model = model
        self._vocab = llama_cpp.llama_model_get_vocab(model)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = threads
        params.embeddings = True
        context = llama_cpp.llama_init_from_model(model, params)
        if context is None:
            raise RuntimeError(f"llama.cpp cannot make a context for {path}")
        self._context = context
        self.dimensions = llama_cpp.llama_model_n_embd(model)

    def __enter__(self) -> GgufEncoder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)

    def tokens(self, text: str) -> list[int]:
        data = text.encode()
        room = 2 * len(data) + 8
        ids = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self._vocab, data, len(data), ids, room, True, False)
        return list(ids[:count])

    def encode_one(self, text: str) -> FloatArray:
        ids = self.tokens(text)[:512]
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        try:
            batch.n_tokens = len(ids)
            for index, token in enumerate(ids):
                batch.token[index] = token
                batch.pos[index] = index
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = 0
                batch.logits[index] = 1
            if llama_cpp.llama_encode(self._context, batch) != 0:
                raise RuntimeError(f"llama_encode failed on {text!r}")
        finally:
            llama_cpp.llama_batch_free(batch)
        pointer = llama_cpp.llama_get_embeddings_seq(self._context, 0)
        vector = np.ctypeslib.as_array(pointer, shape=(self.dimensions,)).astype(np.float32)
        return vector / np.float32(np.linalg.norm(vector))

    def encode(self, texts: Sequence[str]) -> FloatArray:
        return np.stack([self.encode_one(text) for text in texts])


def ranks(values: FloatArray) -> npt.NDArray[np.float64]:
    """Ranks from 0, equal values sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + last - 1) / 2.0)[inverse]


def spearman(first: FloatArray, second: FloatArray) -> float:
    """Spearman's rank correlation of two samples."""
    return float(np.corrcoef(ranks(first), ranks(second))[0, 1])


def retrieval_rate(queries: FloatArray, documents: FloatArray) -> float:
    """Share of queries whose nearest document (by cosine) is the one of the same row."""
    return float((np.argmax(queries @ documents.T, axis=1) == np.arange(len(queries))).mean())
