"""The worker of an embedding model: one text per call, pooled as the model's metadata says."""

from __future__ import annotations

import ctypes
import itertools
import math
from time import perf_counter

import attrs
import llama_cpp
import numpy as np

from asteady._base.errors import EngineError, ModelCapabilityError
from asteady._base.requests import Embedding, EmbedMode, EmbedRequest, Vector
from asteady._engine.api import AnswerEvent, ErrorEvent, Event, Job, SlotId
from asteady._engine.cores import ThreadChooser
from asteady._engine.llama.context import Context, Interruptions, LoadedModel
from asteady._engine.llama.lib import Batch

# A context has room for so many tokens at first.
_FIRST_TOKENS = 512

_REPRESENT = "Represent this sentence for searching relevant passages: "
# What models expect before a query and before a document, from their own cards. The first entry
# with a name that occurs in ``general.name`` counts, with spaces and underscores as hyphens.
_INSTRUCTIONS = (
    (("nomic-embed",), "search_query: ", "search_document: "),
    (("multilingual-e5", "e5-small", "e5-base", "e5-large"), "query: ", "passage: "),
    (("embeddinggemma",), "task: search result | query: ", "title: none | text: "),
    (("bge-small-en", "bge-base-en", "bge-large-en"), _REPRESENT, ""),
    (("mxbai-embed", "arctic-embed"), _REPRESENT, ""),
)


def with_instruction(model_name: str, mode: EmbedMode | None, text: str) -> str:
    """The text after the model's instruction for this mode; unchanged without a mode.

    Raises:
        ModelCapabilityError: no instructions are known for this model.
    """
    if mode is None:
        return text
    name = model_name.lower().replace(" ", "-").replace("_", "-")
    for names, query, document in _INSTRUCTIONS:
        if any(known in name for known in names):
            return (query if mode == "query" else document) + text
    raise ModelCapabilityError(
        f"mode={mode!r} is not supported for the model {model_name!r}, whose instructions are not "
        "known: leave mode out, and write the model's instruction before the text yourself"
    )


@attrs.frozen(kw_only=True)
class EmbedJob:
    """A tokenised text; `truncated` says that it was cut to the context."""

    request: EmbedRequest
    tokens: tuple[int, ...]
    truncated: bool
    checked: int = 0
    """What `OpenModel.check` returned before."""


class EmbedWorker:
    """A `Worker` with one slot: several texts in one call would change each other's result."""

    def __init__(self, model: LoadedModel, *, causal: bool) -> None:
        self._model = model
        self._interruptions = Interruptions()
        self._threads = ThreadChooser(model.cores)
        self._open(_FIRST_TOKENS)
        self._function = llama_cpp.llama_decode if causal else llama_cpp.llama_encode
        self._dimensions: int = llama_cpp.llama_model_n_embd_out(model.native)
        self._slot: SlotId | None = None
        self._job: EmbedJob | None = None
        self._next_slot = itertools.count()

    def _open(self, needed_tokens: int) -> None:
        """Make a context for texts of so many tokens; the size changes no bit."""
        self._tokens = max(_FIRST_TOKENS, 2 ** math.ceil(math.log2(needed_tokens)))
        # A text is pooled within one physical batch, so the batch holds the whole context.
        self._context = Context(
            self._model,
            context_tokens=self._tokens,
            batch_tokens=self._tokens,
            interruptions=self._interruptions,
            embeddings=True,
        )
        self._batch = Batch(self._tokens)

    def admit(self, job: Job) -> SlotId:
        assert isinstance(job, EmbedJob)
        assert self._job is None
        self._job = job
        slot = self._slot = next(self._next_slot)
        self._interruptions.enter(slot)
        self._model.cores.enter()
        return slot

    def interrupt(self, slot: SlotId) -> None:
        self._interruptions.interrupt(slot)

    def release(self, slot: SlotId) -> None:
        if slot == self._slot:
            self._slot = self._job = None
            self._interruptions.leave(slot)
            self._context.forget(0)
            self._model.cores.leave()

    def close(self) -> None:
        if self._slot is not None:
            self.release(self._slot)
        self._context.close()

    def step(self) -> list[Event]:
        slot, job = self._slot, self._job
        if slot is None or job is None:
            return []
        began = perf_counter()
        try:
            self._model.files.check(since=job.checked)
            if len(job.tokens) > self._tokens:
                self._context.close()
                self._open(len(job.tokens))
            self._batch.fill(0, 0, job.tokens, outputs=len(job.tokens))
            threads = self._threads.choose("text")
            self._context.use_threads(threads)
            if not self._context.compute_for(slot, self._function, self._batch):
                return []
            took_s = perf_counter() - began
            self._threads.record("text", threads, took_s / len(job.tokens))
            vector = self._vector(job.request.dimensions)
            self._model.files.check(since=job.checked)
        except EngineError as exc:
            self.release(slot)
            self._context.clear()
            return [ErrorEvent(slot, exc)]
        self.release(slot)
        answer = Embedding(
            vector=vector,
            tokens=len(job.tokens),
            truncated=job.truncated,
            model=self._model.name,
            fingerprint=self._model.fingerprint,
            cost_s=perf_counter() - began,
        )
        return [AnswerEvent(slot, answer)]

    def _vector(self, dimensions: int | None) -> Vector:
        pointer = llama_cpp.llama_get_embeddings_seq(self._context.native, 0)
        if not pointer:
            raise EngineError("llama.cpp computed no embedding for this text")
        raw = np.ctypeslib.as_array(
            ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), shape=(self._dimensions,)
        )
        return normalised(raw[:dimensions], self._model.name)


def normalised(raw: Vector, model: str) -> Vector:
    """A read-only float32 copy with L2 norm 1, computed in float64.

    Raises:
        EngineError: the norm is 0 or not finite.
    """
    values = raw.astype(np.float64)
    norm = float(np.sqrt((values * values).sum()))
    if not (np.isfinite(norm) and norm > 0):
        raise EngineError(
            f"the model {model!r} computed a vector of length {norm}, which has no direction: its "
            "file is damaged, or its numbers overflow. Convert or download it again, or use "
            "another model"
        )
    vector = (values / norm).astype(np.float32)
    vector.flags.writeable = False
    return vector
