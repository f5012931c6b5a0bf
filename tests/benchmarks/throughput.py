"""Those that the engine is compared with: each answers prompts, and tells how long that took.

Ours is the pool as a session sets it up. The peers are llama-cpp-python's `Llama` behind a lock,
a bare llama.cpp loop with its own defaults (flash attention and repacked weights included), which
promises nothing about bits, and `llama-server` where there is one. At few positions a token took a
tenth more processor time without flash attention, on one thread; why was not isolated.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import llama_cpp

from asteady._base.requests import Completion, GenerateRequest
from asteady._base.settings import default_workers
from asteady._engine.llama.lib import Batch, start_backend
from asteady._engine.loader import load_engine, probe_report
from asteady._engine.models.resolve import ModelFile
from asteady._engine.plan import EngineOptions
from asteady._engine.pool import Pool

# A trained model would end its answers where it likes; every answer shall be equally long.
_NO_END = dict.fromkeys((*range(8), 106), -100.0)

# Positions of each sequence of a bare loop, and of a batch.
_SHORT_TOKENS = 512


def request(prompt: str, tokens: int, **options: Any) -> GenerateRequest:
    return GenerateRequest.of(
        prompt, raw=True, max_new_tokens=tokens, logit_bias=_NO_END, **options
    )


class Contestant(ABC):
    """Something that answers raw prompts with so many greedy tokens each."""

    def seconds(self, prompts: Sequence[str], tokens: int) -> float:
        """How long it takes to answer these, which come at once."""
        began = time.perf_counter()
        self.answer(prompts, tokens)
        return time.perf_counter() - began

    @abstractmethod
    def answer(self, prompts: Sequence[str], tokens: int) -> None: ...

    @abstractmethod
    def close(self) -> None: ...


class Ours(Contestant):
    """The pool, after the probe, which a session runs in the background once."""

    def __init__(self, file: ModelFile, folder: Path) -> None:
        self.widths = probe_report(file, EngineOptions(), folder)
        self.engine = load_engine(file, EngineOptions(), folder)
        self.answers: list[Completion] = []
        self._loop = asyncio.new_event_loop()
        self._pool = Pool(self.engine, default_workers(), 1000)

    def answer(self, prompts: Sequence[str], tokens: int) -> None:
        async def all_of_them() -> list[Any]:
            runs = [self._pool.run(request(prompt, tokens)) for prompt in prompts]
            return await asyncio.gather(*runs)

        self.answers = self._loop.run_until_complete(all_of_them())
        assert all(answer.completion_tokens == tokens for answer in self.answers)

    def close(self) -> None:
        self._loop.run_until_complete(self._pool.aclose())
        self._loop.close()


class Llama(Contestant):
    """llama-cpp-python's `Llama`, whose callers wait for each other. Its sampling loop without the
    rest of `create_completion`, which would only make it slower, and with the reuse of what the
    prompt shares with the call before."""

    def __init__(self, path: Path, threads: int, context_tokens: int = 2048) -> None:
        self._llama = llama_cpp.Llama(
            str(path),
            n_ctx=context_tokens,
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
        )

    def answer(self, prompts: Sequence[str], tokens: int) -> None:
        for prompt in prompts:
            made = self._llama.generate(self._llama.tokenize(prompt.encode()), temp=0.0)
            self._llama.detokenize([next(made) for _ in range(tokens)])

    def close(self) -> None:
        self._llama.close()


class BareModel:
    """A model for bare loops, loaded as llama.cpp does by default."""

    def __init__(self, path: Path) -> None:
        start_backend()
        parameters = llama_cpp.llama_model_default_params()
        # A build for AMX crashes with these.
        system = llama_cpp.llama_print_system_info().decode()
        parameters.use_extra_bufts = "AMX_INT8 = 1" not in system
        self.native: Any = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        assert self.native
        self._vocab = llama_cpp.llama_model_get_vocab(self.native)

    def tokenize(self, text: str) -> list[int]:
        data = text.encode()
        tokens = (llama_cpp.llama_token * (len(data) + 8))()
        count = llama_cpp.llama_tokenize(
            self._vocab, data, len(data), tokens, len(tokens), True, False
        )
        return list(tokens[:count])

    def close(self) -> None:
        llama_cpp.llama_model_free(self.native)


class Bare(Contestant):
    """A loop around llama.cpp's C interface: so many contexts with a thread of Python and some of
    llama.cpp each, which decode up to `width` sequences per call."""

    def __init__(
        self,
        model: BareModel,
        sequences: int,
        contexts: int,
        threads: int,
        width: int,
        *,
        flash_attention: bool = True,
    ) -> None:
        self.shape = contexts, threads, width
        self.name = f"{contexts} x {threads} threads, width {width}"
        self._model, self._width = model, width
        self._each = -(-sequences // contexts)
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = _SHORT_TOKENS * self._each
        parameters.n_seq_max = self._each
        parameters.n_batch = parameters.n_ubatch = _SHORT_TOKENS
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.kv_unified = False
        if not flash_attention:
            parameters.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._contexts: list[Any] = [
            llama_cpp.llama_init_from_model(model.native, parameters) for _ in range(contexts)
        ]
        assert all(self._contexts)

    def answer(self, prompts: Sequence[str], tokens: int) -> None:
        parts = [
            prompts[number * self._each : (number + 1) * self._each]
            for number in range(len(self._contexts))
        ]
        running = [
            threading.Thread(target=self._loop, args=(context, part, tokens))
            for context, part in zip(self._contexts, parts, strict=True)
        ]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()

    def _loop(self, context: Any, prompts: Sequence[str], tokens: int) -> None:
        memory = llama_cpp.llama_get_memory(context)
        llama_cpp.llama_memory_clear(memory, False)
        sampler = llama_cpp.llama_sampler_init_greedy()
        batch = Batch(_SHORT_TOKENS, self._each)
        state = []
        for sequence, prompt in enumerate(prompts):
            ids = self._model.tokenize(prompt)
            batch.fill(sequence, 0, ids, outputs=1)
            assert llama_cpp.llama_decode(context, batch.native) == 0
            token = llama_cpp.llama_sampler_sample(sampler, context, len(ids) - 1)
            state.append([sequence, len(ids), token])
        for _ in range(tokens - 1):
            for first in range(0, len(state), self._width):
                group = state[first : first + self._width]
                for place, (sequence, position, token) in enumerate(group):
                    batch.put(place, sequence, position, token)
                assert llama_cpp.llama_decode(context, batch.native) == 0
                for place, each in enumerate(group):
                    each[1] += 1
                    each[2] = llama_cpp.llama_sampler_sample(sampler, context, place)
        llama_cpp.llama_sampler_free(sampler)

    def close(self) -> None:
        for context in self._contexts:
            llama_cpp.llama_free(context)


def best_bare(model: BareModel, prompts: Sequence[str], tokens: int, cores: int) -> Bare:
    """The fastest of all bare loops for so many prompts, by a short run of each."""
    count = len(prompts)
    widths = [width for width in (1, 2, 4, 8, 16, 32) if width <= count]
    best: tuple[float, tuple[int, int, int]] | None = None
    for contexts in range(1, min(cores, count) + 1):
        for width in widths:
            if width > -(-count // contexts):
                continue
            bare = Bare(model, count, contexts, cores // contexts, width)
            bare.answer(prompts, 2)
            took_s = bare.seconds(prompts, tokens)
            bare.close()
            if best is None or took_s < best[0]:
                best = took_s, (contexts, cores // contexts, width)
    assert best is not None
    return Bare(model, count, *best[1])


class Server(Contestant):
    """`llama-server` with so many slots, its prompt cache on."""

    def __init__(self, binary: str, path: Path, threads: int, slots: int, context: int) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            self._port = unused.getsockname()[1]
        command = [binary, "-m", path, "-t", threads, "-np", slots, "-c", context * slots]
        self._process = subprocess.Popen(
            [*map(str, command), "--host", "127.0.0.1", "--port", str(self._port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._threads = ThreadPoolExecutor(64)
        deadline = time.monotonic() + 60
        while True:
            try:
                self._one("a", 1)
                return
            except (OSError, http.client.HTTPException):
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.1)

    def answer(self, prompts: Sequence[str], tokens: int) -> None:
        list(self._threads.map(lambda prompt: self._one(prompt, tokens), prompts))

    def _one(self, prompt: str, tokens: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        body = {
            "prompt": prompt,
            "n_predict": tokens,
            "temperature": 0,
            "cache_prompt": True,
            "ignore_eos": True,
        }
        connection.request(
            "POST", "/completion", json.dumps(body), {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        response.read()
        connection.close()
        if response.status != 200:
            raise http.client.HTTPException(f"status {response.status}")

    def close(self) -> None:
        self._threads.shutdown()
        self._process.kill()
        self._process.wait()
