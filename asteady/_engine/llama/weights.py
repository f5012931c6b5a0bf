"""The weights of a model in memory."""

from __future__ import annotations

from typing import Any

import llama_cpp

from asteady._base.activity import Running
from asteady._engine.llama.lib import load_model
from asteady._engine.models.opened import OpenModel
from asteady._engine.models.resolve import FoundModel


class Weights:
    """A model that llama.cpp has loaded, and its open files; `close` frees both.

    Constructing one blocks for as long as reading the file takes, and raises as `OpenModel` and
    `load_model` do.
    """

    def __init__(
        self, model: FoundModel, *, repack: bool, gpu_layers: int, running: Running
    ) -> None:
        self.files = OpenModel(model)
        try:
            self.native: Any = load_model(
                self.files, repack=repack, gpu_layers=gpu_layers, running=running
            )
        except BaseException:
            self.files.close()
            raise

    def close(self) -> None:
        llama_cpp.llama_model_free(self.native)
        self.files.close()
