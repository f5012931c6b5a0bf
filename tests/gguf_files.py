"""Small GGUF files, for tests and benchmarks that need a real model.

The weights are random, except in `write_bigram`, so the text is noise; it is the same noise for the
same arguments. Blocks of quantised types are drawn directly (a fixed scale, random integers), so
that a file of 400 MB takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np

Weights = Literal["F32", "F16", "Q8_0", "Q4_0"]
Vocabulary = Literal["gpt2", "spm"]

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
BERT_WORDS = ["a", "b", "the", "cache", "async", "loop", "of", "hello", "world", "##s", "##ing"]

_CONTROL = gguf.TokenType.CONTROL
_NORMAL = gguf.TokenType.NORMAL
_ROLES = ["<|system|>", "<|user|>", "<|assistant|>"]


def _byte_characters() -> list[str]:
    """GPT-2's printable stand-in for each of the 256 bytes."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    stand_in = {byte: chr(byte) for byte in kept}
    rest = [byte for byte in range(256) if byte not in stand_in]
    stand_in.update({byte: chr(256 + index) for index, byte in enumerate(rest)})
    return [stand_in[byte] for byte in range(256)]


class _Weights:
    def __init__(self, writer: gguf.GGUFWriter, weights: Weights, seed: int) -> None:
        self._writer = writer
        self._weights = weights
        self._random = np.random.Generator(np.random.SFC64(seed))

    def norm(self, name: str, size: int) -> None:
        self._writer.add_tensor(name, np.ones(size, np.float32))

    def bias(self, name: str, size: int) -> None:
        self._writer.add_tensor(name, np.zeros(size, np.float32))

    def matrix(self, name: str, rows: int, columns: int, std: float) -> None:
        if self._weights in ("F32", "F16"):
            values = self._random.standard_normal((rows, columns), np.float32) * np.float32(std)
            self._writer.add_tensor(
                name, values if self._weights == "F32" else values.astype(np.float16)
            )
            return
        # A block is 32 values: a float16 scale, then 32 signed bytes, or 32 nibbles less 8. The
        # divisors are the standard deviations of those integers, drawn evenly.
        size, deviation = (32, 73.9) if self._weights == "Q8_0" else (16, 4.61)
        blocks = rows * columns // 32
        data = np.empty((blocks, 2 + size), np.uint8)
        data[:, :2] = np.frombuffer(np.float16(std / deviation).tobytes(), np.uint8)
        data[:, 2:] = np.frombuffer(self._random.bytes(blocks * size), np.uint8).reshape(
            blocks, size
        )
        self._writer.add_tensor(
            name,
            data.reshape(rows, -1),
            raw_dtype=gguf.GGMLQuantizationType[self._weights],
        )


def _vocabulary(
    writer: gguf.GGUFWriter,
    kind: Vocabulary,
    size: int,
    *,
    add_bos: bool,
    more_tokens: Mapping[str, gguf.TokenType],
    pre: str,
) -> None:
    alphabet = "etaoinshrdlucmfwypvbgkjqxz"
    pairs = [first + second for first in alphabet for second in alphabet]
    control = ["<|begin|>", "<|end|>", *_ROLES]
    if kind == "gpt2":
        tokens = _byte_characters()
        types = [_NORMAL] * 256
        room = max(0, min(len(pairs), size - len(tokens) - len(control) - len(more_tokens)))
        merges = [f"{pair[0]} {pair[1]}" for pair in pairs[:room]]
        tokens += pairs[:room]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_merges(merges)
    else:
        tokens = ["<unk>"] + [f"<0x{byte:02X}>" for byte in range(256)]
        types = [gguf.TokenType.UNKNOWN] + [gguf.TokenType.BYTE] * 256
        tokens += ["\u2581", *alphabet, *(letter.upper() for letter in alphabet)]
        room = max(0, min(len(pairs), size - len(tokens) - len(control) - len(more_tokens)))
        tokens += pairs[:room]
        writer.add_tokenizer_model("llama")
        writer.add_add_space_prefix(True)
    types += [_NORMAL] * (len(tokens) - len(types))
    first_control = len(tokens)
    tokens += control
    types += [_CONTROL] * len(control)
    tokens += more_tokens
    types += more_tokens.values()
    while len(tokens) < size:
        tokens.append(f"unused{len(tokens)}")
        types.append(_NORMAL)
    writer.add_token_list(tokens)
    if kind == "spm":
        writer.add_token_scores([-float(index) for index in range(len(tokens))])
    writer.add_token_types(types)
    writer.add_bos_token_id(first_control)
    writer.add_eos_token_id(first_control + 1)
    writer.add_add_bos_token(add_bos)


def write_llama(
    path: Path,
    *,
    weights: Weights = "Q8_0",
    layers: int = 2,
    width: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    feed_forward: int = 128,
    context: int = 1024,
    vocabulary: Vocabulary = "gpt2",
    vocabulary_size: int = 512,
    pre: str = "gpt-2",
    template: str | Sequence[Mapping[str, str]] | None = CHAT_TEMPLATE,
    add_bos: bool = True,
    seed: int = 0,
    sharpness: float = 3.0,
    split_tensors: int = 0,
    more_tokens: Mapping[str, gguf.TokenType] | None = None,
    window: int | None = None,
) -> Path:
    """A generation model; `sharpness` is the standard deviation of its logits.

    With `window`, three of four layers attend to so many tokens only (the architecture "cohere2").

    With `split_tensors` it is split over files of so many tensors, after a first one with none;
    `parts_of` finds them.
    """
    writer = gguf.GGUFWriter(
        path,
        "llama" if window is None else "cohere2",
        split_max_tensors=split_tensors,
        small_first_shard=bool(split_tensors),
    )
    if window is not None:
        writer.add_sliding_window(window)
        writer.add_logit_scale(sharpness)
        writer.add_layer_norm_eps(1e-5)
    writer.add_name("random")
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(vocabulary_size)
    _vocabulary(
        writer, vocabulary, vocabulary_size, add_bos=add_bos, more_tokens=more_tokens or {}, pre=pre
    )
    if template is not None:
        writer.add_chat_template(template)
    draw = _Weights(writer, weights, seed)
    spread = width**-0.5
    kv_width = width // heads * kv_heads
    draw.matrix("token_embd.weight", vocabulary_size, width, 1.0 if window is None else spread)
    for layer in range(layers):
        block = f"blk.{layer}"
        draw.norm(f"{block}.attn_norm.weight", width)
        draw.matrix(f"{block}.attn_q.weight", width, width, 2 * spread)
        draw.matrix(f"{block}.attn_k.weight", kv_width, width, 2 * spread)
        draw.matrix(f"{block}.attn_v.weight", kv_width, width, spread)
        draw.matrix(f"{block}.attn_output.weight", width, width, 2 * spread)
        if window is None:
            draw.norm(f"{block}.ffn_norm.weight", width)
        draw.matrix(f"{block}.ffn_gate.weight", feed_forward, width, spread)
        draw.matrix(f"{block}.ffn_up.weight", feed_forward, width, spread)
        draw.matrix(f"{block}.ffn_down.weight", width, feed_forward, 2 * feed_forward**-0.5)
    draw.norm("output_norm.weight", width)
    if window is None:
        draw.matrix("output.weight", vocabulary_size, width, sharpness * spread)
    return _write(writer, path)


def write_bigram(
    path: Path,
    *chains: Sequence[str | bytes],
    control: Sequence[str] = (),
    user_defined: Sequence[str] = (),
    template: str | Sequence[Mapping[str, str]] | None = CHAT_TEMPLATE,
    context: int = 1024,
) -> Path:
    """A generation model whose next token depends on the last one alone.

    In each chain every piece is followed by the next one, and the last one by the end of the
    answer; so is every token that is in no chain. With the usual template a chain begins with
    "\\n", the last token of a prompt. Each piece is one token, of the type NORMAL unless it is
    named otherwise or is one of the roles; bytes are a piece that is no whole characters.
    """
    named = dict.fromkeys(("<|begin|>", "<|end|>", *_ROLES, *control), _CONTROL)
    named |= dict.fromkeys(user_defined, gguf.TokenType.USER_DEFINED)
    characters = _byte_characters()

    def stored(piece: str | bytes) -> str:
        if isinstance(piece, str) and piece in named:
            return piece
        data = piece.encode() if isinstance(piece, str) else piece
        return "".join(characters[byte] for byte in data)

    pieces = dict.fromkeys([*characters, *named])
    pieces |= dict.fromkeys(stored(piece) for chain in chains for piece in chain)
    ids = {piece: index for index, piece in enumerate(pieces)}
    followers = dict.fromkeys(ids.values(), ids["<|end|>"])
    for chain in chains:
        for piece, follower in pairwise([*chain, "<|end|>"]):
            before, after = ids[stored(piece)], ids[stored(follower)]
            if followers[before] not in (after, ids["<|end|>"]):
                raise ValueError(f"{piece!r} is followed by two different pieces")
            followers[before] = after

    size = -(-len(ids) // 64) * 64
    tokens = [*ids, *(f"unused{index}" for index in range(len(ids), size))]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("bigram")
    writer.add_context_length(context)
    writer.add_embedding_length(size)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(size // 64)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(64)
    writer.add_vocab_size(size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    # llama.cpp asks for one; this one makes no token.
    writer.add_token_merges([f"{characters[0]} {characters[0]}"])
    writer.add_token_list(tokens)
    writer.add_token_types([named.get(token, _NORMAL) for token in tokens])
    writer.add_bos_token_id(ids["<|begin|>"])
    writer.add_eos_token_id(ids["<|end|>"])
    writer.add_add_bos_token(True)
    if template is not None:
        writer.add_chat_template(template)
    # The last token's place is 1 in the embedding, and its follower's row of the output is 1 there.
    output = np.zeros((size, size), np.float32)
    output[list(followers.values()), list(followers)] = 2.0
    writer.add_tensor("token_embd.weight", np.eye(size, dtype=np.float32))
    for name, shape in (
        ("attn_q", (size, size)),
        ("attn_k", (64, size)),
        ("attn_v", (64, size)),
        ("attn_output", (size, size)),
        ("ffn_gate", (64, size)),
        ("ffn_up", (64, size)),
        ("ffn_down", (size, 64)),
    ):
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros(shape, np.float32))
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(size, np.float32))
    writer.add_tensor("output.weight", output)
    return _write(writer, path)


def write_bert(
    path: Path,
    *,
    weights: Weights = "F32",
    layers: int = 2,
    width: int = 64,
    heads: int = 4,
    feed_forward: int = 128,
    context: int = 64,
    pooling: gguf.PoolingType | None = gguf.PoolingType.MEAN,
    name: str = "random",
    seed: int = 0,
) -> Path:
    """An embedding model whose vocabulary is letters and `BERT_WORDS`."""
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name(name)
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    if pooling is not None:
        writer.add_pooling_type(pooling)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    types = [_CONTROL] * 5
    pieces += [f"\u2581{letter}" for letter in letters if letter not in BERT_WORDS]
    pieces += list(letters)
    pieces += [word[2:] if word.startswith("##") else f"\u2581{word}" for word in BERT_WORDS]
    pieces = list(dict.fromkeys(pieces))
    types += [_NORMAL] * (len(pieces) - len(types))
    writer.add_tokenizer_model("bert")
    writer.add_token_list(pieces)
    writer.add_token_types(types)
    writer.add_token_type_count(2)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_mask_token_id(4)
    draw = _Weights(writer, weights, seed)
    plain = _Weights(writer, "F32", seed + 1)
    spread = width**-0.5
    draw.matrix("token_embd.weight", len(pieces), width, 1.0)
    plain.matrix("position_embd.weight", context, width, 0.3)
    plain.matrix("token_types.weight", 2, width, 0.1)
    for name_of_norm in ("token_embd_norm",):
        draw.norm(f"{name_of_norm}.weight", width)
        draw.bias(f"{name_of_norm}.bias", width)
    for layer in range(layers):
        block = f"blk.{layer}"
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            draw.matrix(f"{block}.{part}.weight", width, width, spread)
            draw.bias(f"{block}.{part}.bias", width)
        for part in ("attn_output_norm", "layer_output_norm"):
            draw.norm(f"{block}.{part}.weight", width)
            draw.bias(f"{block}.{part}.bias", width)
        draw.matrix(f"{block}.ffn_up.weight", feed_forward, width, spread)
        draw.bias(f"{block}.ffn_up.bias", feed_forward)
        draw.matrix(f"{block}.ffn_down.weight", width, feed_forward, feed_forward**-0.5)
        draw.bias(f"{block}.ffn_down.bias", width)
    return _write(writer, path)


def _write(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def with_values(source: Path, path: Path, *values: tuple[str, Any, float]) -> Path:
    """A copy of an F32 model with other weights: (tensor, index of numpy, value) each."""
    data = bytearray(source.read_bytes())
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(source).tensors}
    for name, index, value in values:
        tensor = tensors[name]
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        weights = np.frombuffer(data, np.float32, tensor.n_elements, tensor.data_offset)
        weights.reshape(tensor.data.shape)[index] = value
    path.write_bytes(data)
    return path


def parts_of(path: Path) -> list[Path]:
    """The files of a model that was written with `split_tensors`, in order."""
    return sorted(path.parent.glob(f"{path.stem}-*-of-*.gguf"))


def corrupted(source: Path, path: Path, *, keep_bytes: int) -> Path:
    """A copy of a file that ends after `keep_bytes` bytes."""
    path.write_bytes(source.read_bytes()[:keep_bytes])
    return path
