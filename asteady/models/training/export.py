"""Export: weights, vocabulary and chat template as one GGUF file, matrices in Q8_0."""

from __future__ import annotations

import json
import os
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from .network import Llama
from .vocabulary import CHAT_TEMPLATE, END, PRE_TOKENIZER, SPECIAL

DESCRIPTION = (
    "A small demonstration model for asteady: short texts, snippets and test data, in English."
)


def write_gguf(path: Path, model: Llama, tokenizer: Tokenizer) -> None:
    """Write the model; the file appears under its name only when it is complete."""
    fresh = path.with_suffix(".new")
    writer = gguf.GGUFWriter(str(fresh), "llama")
    _describe(writer, model)
    _add_vocabulary(writer, tokenizer, model.shape.vocab)
    for name, weight in model.state_dict().items():
        _add_tensor(writer, name, weight.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(fresh, path)


def _describe(writer: gguf.GGUFWriter, model: Llama) -> None:
    shape = model.shape
    writer.add_name("asteady generate")
    writer.add_author("asteady")
    writer.add_license("MIT")
    writer.add_description(DESCRIPTION)
    writer.add_size_label(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}M")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_vocab_size(shape.vocab)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _add_vocabulary(writer: gguf.GGUFWriter, tokenizer: Tokenizer, size: int) -> None:
    model = json.loads(tokenizer.to_str())["model"]
    names = {index: piece for piece, index in model["vocab"].items()}
    # A corpus too small for the wanted size leaves rows without a piece.
    pieces = [names.get(index, f"<|unused{index}|>") for index in range(size)]
    kinds = [
        gguf.TokenType.CONTROL if index < len(SPECIAL) else
        gguf.TokenType.NORMAL if index in names else gguf.TokenType.UNUSED
        for index in range(size)
    ]  # fmt: skip
    merges = [" ".join(m) if isinstance(m, list) else m for m in model["merges"]]
    end = tokenizer.token_to_id(END)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(pieces)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_eot_token_id(end)
    writer.add_pad_token_id(end)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _add_tensor(writer: gguf.GGUFWriter, name: str, weight: NDArray[np.float32]) -> None:
    if weight.ndim == 1:
        writer.add_tensor(name, weight)
        return
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor(name, gguf.quants.quantize(weight, kind), raw_dtype=kind)
