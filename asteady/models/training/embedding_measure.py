"""The figures of the embedding model, measured on the GGUF file through llama.cpp."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from random import Random

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

    def __exit__(self, *exc: object) -> None:
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


_ODD = (
    "",
    " ",
    "\t tabs\nand\r\nnewlines\u00a0nbsp\u2003em",
    "na\u00efve caf\u00e9, e\u0301 combining, \u0130stanbul, Stra\u00dfe, \ufb01 ligature, \u00bd",
    "\u65e5\u672c\u8a9e\u30c6\u30ad\u30b9\u30c8 \u6f22\u5b57, \ud55c\uad6d\uc5b4",
    "emoji \U0001f600 \U0001f44d\U0001f3fd \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",
    "zero\u200bwidth \ufeffbom \ufffd a\x07c",
    "[CLS] [MASK] <s> x=1;y_2->z[3] $^`|~<>",
    "x" * 300,
)
# Blocks from which strings of random characters are drawn.
_BLOCKS = (
    (0x20, 0x7F),
    (0xA0, 0x250),
    (0x300, 0x460),
    (0x590, 0x660),
    (0x900, 0x960),
    (0x1E00, 0x1F00),
    (0x2000, 0x2070),
    (0x20A0, 0x20C0),
    (0x2190, 0x2300),
    (0x3000, 0x3100),
    (0x4E00, 0x4F00),
    (0xAC00, 0xAD00),
    (0xFF00, 0xFF60),
    (0x1F300, 0x1F650),
)


def odd_texts(rng: Random, count: int) -> list[str]:
    """Texts that tokenisers tend to disagree about: signs, accents, scripts, emoji, nothing."""
    pool = [chr(point) for low, high in _BLOCKS for point in range(low, high)]
    made = ["".join(rng.choices(pool, k=rng.randint(1, 20))) for _ in range(count - len(_ODD))]
    return [*_ODD, *made]


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
