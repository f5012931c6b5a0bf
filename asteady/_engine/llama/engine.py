"""`LlamaEngine`: a GGUF model loaded once, whose workers share the weights.

Import this module only when an engine starts: it loads llama.cpp.
"""

from __future__ import annotations

from typing import Any

import attrs
import llama_cpp

from asteady._base.errors import (
    EngineError,
    InvalidRequestError,
    ModelCapabilityError,
    PromptTooLongError,
)
from asteady._base.requests import DeclaredPrefix, EmbedRequest, GenerateRequest
from asteady._engine.api import PIECE_TOKENS, Job, PrefixStatistics, Request, Worker
from asteady._engine.llama.embed import EmbedJob, EmbedWorker, with_instruction
from asteady._engine.llama.generate import GenerateJob, GenerateWorker
from asteady._engine.llama.lib import load_model
from asteady._engine.llama.prompt import PromptTokenizer
from asteady._engine.llama.vocab import Vocab
from asteady._engine.models.resolve import ModelFile
from asteady._engine.plan import EngineOptions, Setup
from asteady._engine.prefix_cache import PrefixCache


class LlamaEngine:
    """An `Engine` over one loaded model. `asteady._engine.loader.load_engine` makes one;
    close it after its workers."""

    def __init__(
        self,
        model_file: ModelFile,
        options: EngineOptions,
        setup: Setup,
        native: Any,
        fingerprint: str,
    ) -> None:
        self._file = model_file
        self._threads = options.threads
        self.setup = setup
        self._native = native
        self._fingerprint = fingerprint
        self.vocab = Vocab(native)
        self._tokenizer = PromptTokenizer(native, self.vocab)
        self.context_tokens = options.context_for(model_file.header.context_length)
        self.dimensions: int = llama_cpp.llama_model_n_embd_out(native)
        self._prefixes = PrefixCache(options.prefix_max_bytes)
        # A state of these would be put back in another order than it was computed in, or cannot be
        # cut at a token.
        self._shares_prefixes = not (
            llama_cpp.llama_model_n_swa(native)
            or llama_cpp.llama_model_is_recurrent(native)
            or llama_cpp.llama_model_is_hybrid(native)
        )

    @classmethod
    def load(
        cls, model_file: ModelFile, options: EngineOptions, setup: Setup, fingerprint: str
    ) -> LlamaEngine:
        """Load the weights. Blocks for as long as reading the file takes.

        Raises:
            ModelFormatError: llama.cpp cannot load the file; the message has its reason.
            ModelCapabilityError: a kind of model that asteady does not serve.
        """
        native = load_model(model_file.path, repack=setup.repack, gpu_layers=options.gpu_layers)
        if model_file.header.kind == "generation" and llama_cpp.llama_model_has_encoder(native):
            llama_cpp.llama_model_free(native)
            raise ModelCapabilityError(
                f"{model_file.path} is an encoder-decoder model "
                f"({model_file.header.architecture}); only decoder models can generate"
            )
        return cls(model_file, options, setup, native, fingerprint)

    def __repr__(self) -> str:
        state = "closed" if self._native is None else f"width={self.width}"
        return f"<LlamaEngine {self.model} {self.kind} {state}>"

    @property
    def kind(self) -> str:
        """ "generation" or "embedding"."""
        return self._file.header.kind

    @property
    def model(self) -> str:
        return self._file.reference

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @property
    def width(self) -> int:
        return self.setup.width

    def prepare(self, request: Request) -> Job:
        if isinstance(request, GenerateRequest):
            if self.kind == "embedding":
                raise ModelCapabilityError(
                    f"the model {self.model!r} embeds and cannot generate; set generation_model "
                    'to "builtin" or the path of a generation model'
                )
            return self._prepare_generate(request)
        if self.kind == "generation":
            raise ModelCapabilityError(
                f"the model {self.model!r} generates and cannot embed; set embedding_model to "
                '"builtin", "minilm" or the path of an embedding model'
            )
        return self._prepare_embed(request)

    def prepare_declared(self, request: Request, prefix: DeclaredPrefix) -> Job:
        job = self.prepare(request)
        if not self._shares_prefixes or not isinstance(job, GenerateJob):
            return job
        shared = self._tokenizer.shared_tokens(job.request, job.tokens, prefix)
        # The logits after the prompt are needed, so its last piece is computed in any case.
        pieces = min(shared, len(job.tokens) - 1) // PIECE_TOKENS
        return attrs.evolve(job, shared_tokens=pieces * PIECE_TOKENS)

    def prefix_statistics(self) -> PrefixStatistics:
        return self._prefixes.statistics()

    def _prepare_generate(self, request: GenerateRequest) -> GenerateJob:
        for token, _ in request.logit_bias:
            if token >= self.vocab.size:
                raise InvalidRequestError(
                    f"logit_bias token {token} is not allowed: the model's tokens are 0 to "
                    f"{self.vocab.size - 1}"
                )
        tokens = self._tokenizer.tokenize(request)
        room = self.context_tokens - len(tokens)
        if room < 1:
            raise PromptTooLongError(
                f"the prompt has {len(tokens)} tokens, and a context of {self.context_tokens} "
                f"leaves room for at most {self.context_tokens - 1}: shorten it, or use a model "
                "with a longer context"
            )
        return GenerateJob(
            request=request, tokens=tuple(tokens), limit=min(request.max_new_tokens, room)
        )

    def _prepare_embed(self, request: EmbedRequest) -> EmbedJob:
        if request.dimensions is not None and request.dimensions > self.dimensions:
            raise InvalidRequestError(
                f"dimensions={request.dimensions} is not allowed: the model's vectors have "
                f"{self.dimensions}"
            )
        text = with_instruction(self._file.header.name, request.mode, request.text)
        tokens = self.vocab.tokenize(text, special=False, add_special=True)
        if not tokens:
            raise InvalidRequestError("text='' is not allowed: the model makes no token of it")
        truncated = len(tokens) > self.context_tokens
        if truncated:
            if not request.truncate:
                raise PromptTooLongError(
                    f"the text has {len(tokens)} tokens, and the model's context holds "
                    f"{self.context_tokens}: shorten it, or pass truncate=True"
                )
            tokens = self.vocab.truncate(tokens, self.context_tokens)
        return EmbedJob(request=request, tokens=tuple(tokens), truncated=truncated)

    def open_worker(self) -> Worker:
        if self._native is None:
            raise EngineError(f"the engine for {self.model} is closed")
        if self.kind == "embedding":
            return EmbedWorker(
                self._native,
                context_tokens=self.context_tokens,
                threads=self._threads,
                causal=self._file.header.causal and self._file.header.pooling == "last",
                model_name=self.model,
                fingerprint=self.fingerprint,
            )
        return GenerateWorker(
            self._native,
            self.vocab,
            context_tokens=self.context_tokens,
            threads=self._threads,
            setup=self.setup,
            prefixes=self._prefixes,
            model_name=self.model,
            fingerprint=self.fingerprint,
        )

    def close(self) -> None:
        self._prefixes.clear()
        if self._native is not None:
            llama_cpp.llama_model_free(self._native)
            self._native = None
