"""llama.cpp in several threads at once: what it logs, and what forks wait for."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import llama_cpp
import pytest

from asteady._base.activity import Running
from asteady._base.errors import ModelFormatError
from asteady._base.forks import ForkGate
from asteady._engine.llama import lib
from asteady._engine.models.opened import OpenModel
from asteady._engine.models.resolve import resolve_model


class HeldLoad(Running):
    """Holds up a load, once it has begun, until `go_on`."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        super().__init__("loading", "a model", 100)
        self.held = True

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "done" and hasattr(self, "held"):
            self.begun.set()
            assert self.go_on.wait(60)


def test_a_fork_does_not_wait_for_a_model_that_is_being_loaded(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, quiet, held = ForkGate(limit_s=0.2), threading.Event(), HeldLoad()
    gate.before_fork(quiet.set)
    monkeypatch.setattr(lib, "fork_gate", gate)
    file = resolve_model(str(models / "gpt2.gguf"), kind="generation", cache_dir=models)
    with closing(OpenModel(file)) as files, ThreadPoolExecutor(2) as threads:
        loading = threads.submit(lib.load_model, files, repack=False, running=held)
        try:
            assert held.begun.wait(60)
            # Of another model, which waits for the end of that load.
            asking = threading.Thread(target=lib.start_backend)
            asking.start()
            asking.join(0.2)
            gate.close()
            gate.open()
        finally:
            held.go_on.set()
        llama_cpp.llama_model_free(loading.result())
        asking.join(60)
    assert quiet.is_set()


def test_a_model_is_not_blamed_for_what_another_thread_fails_at(
    models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = (models / "gpt2.gguf").read_bytes()
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(source.replace(b"token_embd.weight", b"token_embd.waight"))
    file = resolve_model(str(damaged), kind="generation", cache_dir=tmp_path)
    begun, go_on = threading.Event(), threading.Event()

    def hold(record: logging.LogRecord) -> bool:
        if threading.current_thread() is not threading.main_thread():
            begun.set()
            assert go_on.wait(60)
        return True

    def load() -> None:
        with closing(OpenModel(file)) as files:
            lib.load_model(files, repack=False)

    logger = logging.getLogger("asteady")
    with caplog.at_level(logging.DEBUG, "asteady"), ThreadPoolExecutor(1) as threads:
        logger.addFilter(hold)
        try:
            loading = threads.submit(load)
            assert begun.wait(60)
            parameters = llama_cpp.llama_model_default_params()
            assert not llama_cpp.llama_model_load_from_file(b"/none.gguf", parameters)
        finally:
            go_on.set()
            logger.removeFilter(hold)
        assert "none.gguf" in caplog.text
        with pytest.raises(ModelFormatError, match=r"damaged\.gguf: .*token_embd\.weight"):
            loading.result()
