"""The tokens of requests, also by a model whose weights are not loaded."""

from __future__ import annotations

from typing import Any

import llama_cpp

from asteady._base.requests import GenerateRequest, Kind
from asteady._engine.api import Request
from asteady._engine.llama.embed import with_instruction
from asteady._engine.llama.lib import load_model
from asteady._engine.llama.prompt import PromptTokenizer
from asteady._engine.llama.vocab import Vocab
from asteady._engine.models.gguf import GgufHeader
from asteady._engine.models.opened import OpenModel
from asteady._engine.models.resolve import FoundModel, wrong_kind


def tokenize(
    request: Request, prompts: PromptTokenizer, vocab: Vocab, header: GgufHeader, model: str
) -> list[int]:
    """All tokens of a request's prompt or text, also if they are more than the context holds.

    Raises:
        ModelCapabilityError: the model is of the other kind, or has no usable chat template.
        InvalidRequestError: the template refuses the messages.
    """
    kind: Kind = "generation" if isinstance(request, GenerateRequest) else "embedding"
    if kind != header.kind:
        raise wrong_kind(f"the model {model!r}", kind)
    if isinstance(request, GenerateRequest):
        return prompts.tokenize(request)
    text = with_instruction(header.name, request.mode, request.text)
    return vocab.tokenize(text, special=False, add_special=True)


class LlamaTokenizer:
    """A `Tokenizer` of a model file, with the vocabulary and the chat template only.

    Constructing one blocks while the file's metadata is read.

    Raises:
        ModelChangedError: a file was replaced or written to since it was identified.
        ModelFormatError: llama.cpp cannot load the file; the message has its reason.
    """

    def __init__(self, file: FoundModel) -> None:
        files = OpenModel(file)
        try:
            self._native: Any = load_model(files, repack=False, vocabulary_only=True)
        finally:
            files.close()
        self._vocab = Vocab(self._native)
        self._prompts = PromptTokenizer(self._native, self._vocab)
        self._file = file

    def tokenize(self, request: Request) -> list[int]:
        file = self._file
        return tokenize(request, self._prompts, self._vocab, file.header, file.reference)

    def piece(self, token: int) -> bytes:
        return self._vocab.whole_piece(token)

    def close(self) -> None:
        native, self._native = self._native, None
        if native is not None:
            llama_cpp.llama_model_free(native)
