"""`LlamaEngine`: a GGUF model loaded once, whose workers share the weights.

Import this module only when an engine starts: it loads llama.cpp.
"""

from __future__ import annotations

import functools
import json
import logging
import re
import threading
from collections.abc import Callable

import attrs
import llama_cpp

from asteady._base.activity import Activities
from asteady._base.constraints import Constraint
from asteady._base.errors import (
    EngineError,
    InvalidRequestError,
    ModelCapabilityError,
    PromptTooLongError,
)
from asteady._base.requests import (
    DeclaredPrefix,
    EmbedRequest,
    GenerateRequest,
    Kind,
    characters_of,
)
from asteady._base.threads import start_daemon
from asteady._base.tools import DEFAULT_CHOICE
from asteady._engine.api import Job, PrefixStatistics, Request, Worker
from asteady._engine.cores import Cores
from asteady._engine.llama.context import LoadedModel
from asteady._engine.llama.embed import EmbedJob, EmbedWorker, with_instruction
from asteady._engine.llama.generate import GenerateJob, GenerateWorker
from asteady._engine.llama.probe import Probe, lower_priority
from asteady._engine.llama.prompt import PromptTokenizer
from asteady._engine.llama.tokenizer import tokenize
from asteady._engine.llama.vocab import Vocab
from asteady._engine.llama.weights import Weights
from asteady._engine.memory import ContextMemory
from asteady._engine.models.resolve import ModelFile, wrong_kind
from asteady._engine.output.call_formats import schema_of
from asteady._engine.output.calls import CallPlan
from asteady._engine.output.grammar import Grammars
from asteady._engine.plan import EngineOptions, Setup, WidthReport, room_shape
from asteady._engine.prefix_cache import PrefixCache

# So much is tokenised in any case, as it takes a few milliseconds: what is a little too long is
# refused with its number of tokens.
_ANY_CHARACTERS = 2**16
# Where a token stands for any number of bytes the time is linear in them, about a second for these.
_LOSSY_CHARACTERS = 2**20
_WORD_END = re.compile(r"(?<=\S)\s")
# A cut inside a word changes the tokens near it.
_MARGIN_TOKENS = 64
_log = logging.getLogger("asteady")


class LlamaEngine:
    """An `Engine` over one loaded model; close it after its workers.

    Once it is constructed, it closes `weights`, which must be those of `file`.

    Raises:
        ModelCapabilityError: a kind of model that asteady does not serve.
    """

    def __init__(
        self,
        file: ModelFile,
        weights: Weights,
        options: EngineOptions,
        setup: Setup,
        fingerprint: str,
        *,
        cores: Cores,
        memory: ContextMemory,
        remember_widths: Callable[[WidthReport], None] | None = None,
        activities: Activities,
    ) -> None:
        header, native = file.header, weights.native
        if header.kind == "generation" and llama_cpp.llama_model_has_encoder(native):
            raise ModelCapabilityError(
                f"{file.path} is an encoder-decoder model ({header.architecture}); only decoder "
                "models can generate"
            )
        self._weights = weights
        self._header = header
        self.kind = header.kind
        self.model = file.reference
        self.fingerprint = fingerprint
        self.setup = setup
        self._width = setup.width
        self._limit = options.batch_width
        self._remember_widths = remember_widths
        self._probe: Probe | None = None
        self._probing: threading.Thread | None = None
        self.context_tokens = options.context_for(header.kind, header.context_length)
        self.dimensions: int = llama_cpp.llama_model_n_embd_out(native)
        self.vocab = Vocab(native)
        self._tokenizer = PromptTokenizer(native, self.vocab)
        self._grammars = Grammars(self.vocab, options.form_max_states)
        self._prefixes = PrefixCache(options.prefix_max_bytes, options.piece_tokens)
        self._loaded: LoadedModel | None = LoadedModel(
            native=native,
            files=weights.files,
            name=self.model,
            fingerprint=fingerprint,
            context_tokens=self.context_tokens,
            piece_tokens=options.piece_tokens,
            weights_bytes=llama_cpp.llama_model_size(native),
            kv_bytes=header.kv_bytes_per_token,
            reusable=not (
                llama_cpp.llama_model_is_recurrent(native)
                or llama_cpp.llama_model_is_hybrid(native)
            ),
            cores=cores,
            memory=memory,
            activities=activities,
        )

    def __repr__(self) -> str:
        state = "closed" if self._loaded is None else f"width={self.width}"
        return f"<LlamaEngine {self.model} {self.kind} {state}>"

    def check_size(self, request: Request) -> None:
        if isinstance(request, EmbedRequest):
            if request.truncate:
                return
            what, characters = "text", len(request.text)
        elif request.prompt is not None:
            what, characters = "prompt", len(request.prompt)
        else:
            what = "conversation"
            characters = sum(
                len(message.role) + sum(map(len, message.texts())) for message in request.messages
            )
        if characters > self._max_characters:
            raise PromptTooLongError(
                f"the {what} has {characters:,} characters, and a context of "
                f"{self.context_tokens:,} tokens is given at most {self._max_characters:,} to "
                "tokenise: shorten it, or use a model with a longer context"
            )

    @functools.cached_property
    def _max_characters(self) -> int:
        # A character is a byte or more.
        floor = _LOSSY_CHARACTERS if self.vocab.is_lossy else _ANY_CHARACTERS
        return max(floor, self.context_tokens * self.vocab.longest_piece_bytes)

    def prepare(self, request: Request) -> Job:
        if characters_of(request) > _ANY_CHARACTERS:
            self.check_size(request)
        kind: Kind = "generation" if isinstance(request, GenerateRequest) else "embedding"
        if kind != self.kind:
            raise wrong_kind(f"the model {self.model!r}", kind)
        checked = self._weights.files.check()
        if isinstance(request, GenerateRequest):
            return self._prepare_generate(request, checked)
        return self._prepare_embed(request, checked)

    def tokenize(self, request: Request) -> list[int]:
        return tokenize(request, self._tokenizer, self.vocab, self._header, self.model)

    def piece(self, token: int) -> bytes:
        return self.vocab.whole_piece(token)

    @property
    def width(self) -> int:
        return self._width

    @property
    def weights_bytes(self) -> int:
        return 0 if self._loaded is None else self._loaded.weights_bytes

    def workers_for(self, jobs: int, workers: int) -> int:
        return (
            min(jobs, workers)
            if self._loaded is None
            else self._loaded.division.choose(jobs, workers, self._width)
        )

    def widen(self, widened: Callable[[], None]) -> None:
        loaded = self._loaded
        if self._remember_widths is None or self._probe is not None or loaded is None:
            return
        self._probe = Probe(loaded, self.vocab, self._limit)
        self._probing = start_daemon("asteady-probe", self._find_width, self._probe, widened)

    def join_widening(self) -> None:
        if self._probing is not None:
            self._probing.join()

    def probe(self) -> WidthReport:
        """Find out now how many sequences may share a batch, and remember it. Blocks for seconds.

        Raises:
            EngineError: llama.cpp failed, or there is no memory for the probe.
        """
        assert self._loaded is not None
        report = Probe(self._loaded, self.vocab, self._limit).run()
        if report is None:
            raise EngineError(
                f"there is no memory to probe {self.model}: raise context_memory_mb "
                "(ASTEADY_CONTEXT_MEMORY_MB)"
            )
        if self._remember_widths is not None:
            self._remember_widths(report)
        return report

    def _find_width(self, probe: Probe, widened: Callable[[], None]) -> None:
        lower_priority()
        try:
            report = probe.run()
        except Exception:
            _log.exception("the probe of %s failed; it computes one sequence per step", self.model)
            return
        if report is None or self._remember_widths is None:
            # Stopped, or without memory: it is tried again when requests wait the next time.
            self._probe = None
            return
        message = "%s: up to %d sequences per step, by a probe of %.1f s"
        _log.info(message, self.model, report.width, report.took_s)
        self._remember_widths(report)
        self._width = report.width
        widened()

    def prepare_declared(self, request: Request, prefix: DeclaredPrefix) -> Job:
        job = self.prepare(request)
        loaded = self._loaded
        if loaded is None or not loaded.reusable or not isinstance(job, GenerateJob):
            return job
        shared = self._tokenizer.shared_tokens(job.request, job.tokens, prefix)
        # The logits after the prompt are needed, so its last piece is computed in any case.
        pieces = min(shared, len(job.tokens) - 1) // loaded.piece_tokens
        return attrs.evolve(job, shared_tokens=pieces * loaded.piece_tokens)

    def prefix_statistics(self) -> PrefixStatistics:
        return self._prefixes.statistics()

    def _prepare_generate(self, request: GenerateRequest, checked: int) -> GenerateJob:
        for token, _ in request.logit_bias:
            if token >= self.vocab.size:
                raise InvalidRequestError(
                    f"logit_bias token {token} is not allowed: the model's tokens are 0 to "
                    f"{self.vocab.size - 1}"
                )
        constraint = request.constraint
        matcher = None if constraint is None else self._grammars.compile(constraint)
        calls = self._plan_calls(request)
        if calls is not None and calls.forced:
            matcher = calls.matcher
        tokens = self._tokenizer.tokenize(request)
        room = self.context_tokens - len(tokens)
        if room < 1:
            raise PromptTooLongError(
                f"the prompt has {len(tokens)} tokens, and a context of {self.context_tokens} "
                f"leaves room for at most {self.context_tokens - 1}: {self._longer_context()}"
            )
        limit = min(request.max_new_tokens, room)
        self._check_memory(len(tokens), limit)
        return GenerateJob(
            request=request,
            tokens=tuple(tokens),
            limit=limit,
            thinking=self._tokenizer.thinking(request, tokens),
            matcher=matcher,
            calls=calls,
            checked=checked,
        )

    def _plan_calls(self, request: GenerateRequest) -> CallPlan | None:
        if not request.tools:
            return None
        found = self._tokenizer.call_format
        tokens = self._tokenizer.control_tokens(found.tags)
        compile_ = self._grammars.compile
        try:
            grammar = found.grammar(request.tools, request.tool_choice, tokens)
            matcher = compile_(Constraint("lark", grammar))
        except InvalidRequestError as exc:
            for at, tool in enumerate(request.tools):
                function = json.loads(tool)["function"]
                try:
                    compile_(Constraint("json", json.dumps(schema_of(function))))
                except InvalidRequestError as its:
                    raise InvalidRequestError(
                        f"tools[{at}]: the parameters of {function['name']}: {its}"
                    ) from None
            raise InvalidRequestError(f"tools are not allowed together: {exc}") from None
        return CallPlan(
            format=found,
            matcher=matcher,
            forced=request.tool_choice != DEFAULT_CHOICE,
            tokens=tokens,
        )

    def _longer_context(self) -> str:
        """What helps against a context that is too short."""
        if self.context_tokens < self._header.context_length:
            return (
                "shorten it, or raise context_tokens (ASTEADY_CONTEXT_TOKENS); the model was "
                f"trained on {self._header.context_length}"
            )
        return "that is what the model was trained on; shorten it, or use a model with more"

    def _check_memory(self, prompt: int, limit: int) -> None:
        loaded = self._loaded
        if loaded is None:
            return
        shape = room_shape(
            None,
            needed_tokens=prompt + limit,
            busy=0,
            context_tokens=loaded.context_tokens,
            kv_bytes=loaded.kv_bytes,
            weights_bytes=0,
        )
        needed_bytes, max_bytes = shape.tokens * loaded.kv_bytes, loaded.memory.max_bytes
        if needed_bytes > max_bytes:
            raise PromptTooLongError(
                f"the prompt has {prompt} tokens, and with an answer of up to {limit} its keys and "
                f"values take {needed_bytes / 2**20:.0f} MB, but context_memory_mb is "
                f"{max_bytes / 2**20:.0f}: raise it (ASTEADY_CONTEXT_MEMORY_MB), or shorten the "
                "prompt or max_new_tokens"
            )

    def _prepare_embed(self, request: EmbedRequest, checked: int) -> EmbedJob:
        if request.dimensions is not None and request.dimensions > self.dimensions:
            raise InvalidRequestError(
                f"dimensions={request.dimensions} is not allowed: the model's vectors have "
                f"{self.dimensions}"
            )
        text = with_instruction(self._header.name, request.mode, request.text)
        tokens = self._tokenize_text(text, request.truncate)
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
        return EmbedJob(request=request, tokens=tuple(tokens), truncated=truncated, checked=checked)

    def _tokenize_text(self, text: str, truncate: bool) -> list[int]:
        """All its tokens; with `truncate` at least as many as the context holds, if it has so many.

        A text that is far too long is cut before white space, which no token crosses, or, where a
        word is as long as all that the context may hold, within that word.
        """
        vocab, size = self.vocab, self._max_characters if truncate else len(text)
        while size < len(text):
            space = _WORD_END.search(text, size, 2 * size)
            if space is None and vocab.is_lossy:
                space = _WORD_END.search(text, size)  # what a word becomes depends on all of it
                size = len(text) if space is None else space.start()
            else:
                size = 2 * size if space is None else space.start()
            tokens = vocab.tokenize(text[:size], special=False, add_special=True)
            if len(tokens) > self.context_tokens + _MARGIN_TOKENS:
                return tokens
            size *= 2
        return vocab.tokenize(text, special=False, add_special=True)

    def open_worker(self) -> Worker:
        if self._loaded is None:
            raise EngineError(f"the engine for {self.model} is closed")
        if self.kind == "embedding":
            causal = self._header.causal and self._header.pooling == "last"
            return EmbedWorker(self._loaded, causal=causal)
        return GenerateWorker(self._loaded, self.vocab, self._prefixes)

    def close(self) -> None:
        probe, probing = self._probe, self._probing
        if probe is not None and probing is not None:
            probe.stop()
            probing.join()
        self._prefixes.clear()
        if self._loaded is not None:
            self._loaded = None
            self._weights.close()
