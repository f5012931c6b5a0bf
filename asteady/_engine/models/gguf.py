"""The header of a GGUF file, read without llama.cpp.

llama.cpp maps a file and trusts it: a truncated one can crash the process, and some damaged
headers end it by an assertion. So the header is checked here first: magic, version, metadata, that
the tensor data lies within the file, and what llama.cpp asserts of every architecture. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from pathlib import Path
from typing import Any

import attrs

from asteady._base.errors import ModelFormatError
from asteady._base.requests import Kind
from asteady._engine.models.thinking_tags import tags_of

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_SCALARS = {
    kind: struct.Struct("<" + code)
    for kind, code in zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True)
}
_U32 = _SCALARS[4]
_U64 = _SCALARS[10]
_U16_MAX, _U32_MAX = 2**16 - 1, 2**32 - 1

# Limits that no model comes near, so that a damaged number cannot cost minutes or gigabytes.
_MAX_PAIRS = 2**16
_MAX_TENSORS = 2**20
_MAX_STRINGS = 2**24
_MAX_STRING_BYTES = 2**24
_MAX_DIMENSIONS = 4  # of ggml
# llama.cpp's LLAMA_MAX_LAYERS and LLAMA_MAX_EXPERTS, which it asserts.
_MAX_LAYERS = 512
_MAX_EXPERTS = 1024

# ggml's tensor types: number -> (name, values per block, bytes per block). A tensor of another type
# is only checked to begin within the file.
_TENSOR_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
    42: ("Q2_0", 64, 18),
}

_BYTE_TOKEN = 6  # the type of a token that stands for a byte

# The special tokens that llama.cpp asserts for a tokenizer, and the number that it takes where the
# metadata has none in the vocabulary. "seperator" is how GGUF spells it.
_SPECIAL_TOKENS = {
    "llama": {"bos": 1, "eos": 2},
    "bert": {"bos": 101, "seperator": 102},
    "gpt2": {"bos": 11, "eos": 11},
    "t5": {"eos": 1},
}

# Architectures of encoders, whatever else their metadata says.
_BERTS = ("bert", "modern-bert", "neo-bert", "nomic-bert", "nomic-bert-moe", "eurobert")
_ENCODERS = {*_BERTS, "jina-bert-v2", "jina-bert-v3", "gemma-embedding", "t5encoder"}
_POOLING = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}


@attrs.frozen(kw_only=True)
class GgufHeader:
    """The metadata of a model file that is used before the model is loaded.

    `architecture` is "" for a later part of a split model. `pooling` is "none", "mean", "cls",
    "last", "rank" (a reranker), or None if the metadata has none. `matrix_types` are the tensor
    types of the matrices, sorted. `kv_bytes_per_token` is the size of the keys and values of one
    position, as float16, or 0 if unknown. `dimensions` are those of its vectors, or 0 if unknown.
    `parameters` is the number of weights. `licence` is the metadata's text. `thinks` says whether
    its chat template knows thinking tags.
    """

    architecture: str
    name: str
    context_length: int
    causal: bool
    pooling: str | None
    has_chat_template: bool
    matrix_types: tuple[str, ...]
    kv_bytes_per_token: int = 0
    dimensions: int = 0
    parameters: int = 0
    licence: str = ""
    thinks: bool = False

    @property
    def kind(self) -> Kind:
        if self.architecture in _ENCODERS or not self.causal or self.pooling not in (None, "none"):
            return "embedding"
        return "generation"


@attrs.frozen
class _Array:
    """An array of the metadata: the type and number of its items, and where they begin."""

    kind: int
    count: int
    start: int

    def __repr__(self) -> str:
        return f"an array of {self.count}"


class _Reader:
    """Reads the parts of a header; raises EOFError where it goes on after the end of the file."""

    def __init__(self, data: mmap.mmap | bytes) -> None:
        self._data = data
        self._strings = 0
        self.position = 0

    def _take(self, count: int) -> int:
        start = self.position
        if start + count > len(self._data):
            raise EOFError
        self.position = start + count
        return start

    def number(self, kind: struct.Struct) -> Any:
        return kind.unpack_from(self._data, self._take(kind.size))[0]

    def raw(self, count: int) -> bytes:
        if count > _MAX_STRING_BYTES:
            raise ValueError(f"it has a string of {count} bytes")
        start = self._take(count)
        return self._data[start : start + count]

    def string(self) -> str:
        return self.raw(self.number(_U64)).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        """A scalar, a string, or an `_Array`, whose items are skipped."""
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array()
        if kind not in _SCALARS:
            raise ValueError(f"its metadata has a value of the unknown type {kind}")
        return self.number(_SCALARS[kind])

    def _array(self) -> _Array:
        array = _Array(self.number(_U32), self.number(_U64), self.position)
        if array.kind == _STRING:
            self._strings += array.count
            if self._strings > _MAX_STRINGS:
                raise ValueError(f"its metadata has {self._strings} strings")
            self._skip_strings(array.count)
        elif array.kind in _SCALARS:
            self._take(array.count * _SCALARS[array.kind].size)
        else:  # llama.cpp reads no arrays of arrays
            raise ValueError(f"its metadata has an array of the unknown type {array.kind}")
        return array

    # A vocabulary has hundreds of thousands of strings, so these call nothing that they need not.

    def _skip_strings(self, count: int) -> None:
        length_at, data, end = _U64.unpack_from, self._data, self.position
        try:
            for _ in range(count):
                end += 8 + length_at(data, end)[0]
        except (struct.error, OverflowError):  # fewer than eight bytes are left
            raise EOFError from None
        self._take(end - self.position)

    def _raw_strings(self, count: int) -> list[bytes]:
        length_at, data, end = _U64.unpack_from, self._data, self.position
        strings = []
        for _ in range(count):
            start = end + 8
            end = start + length_at(data, end)[0]
            if end - start > _MAX_STRING_BYTES:
                raise ValueError(f"it has a string of {end - start} bytes")
            strings.append(data[start:end])
        self.position = end
        return strings

    def items(self, array: _Array) -> list[Any]:
        """The items of an array; strings as bytes."""
        self.position = array.start
        if array.kind == _STRING:
            return self._raw_strings(array.count)
        scalar = _SCALARS[array.kind]
        start = self._take(array.count * scalar.size)
        return [item for (item,) in scalar.iter_unpack(self._data[start : self.position])]


class _Metadata:
    """The values of a header by key. A value of another type than expected is a ValueError."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def text(self, key: str, default: str = "") -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str):
            raise ValueError(f"{key} is {value}, and must be a string")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise ValueError(f"{key} is {value}, and must be true or false")
        return value

    def whole(self, key: str, high: int, *, low: int = 0, default: int = 0) -> int:
        value = self.values.get(key, default)
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{key} is {value}, and must be a whole number from {low} to {high}")
        return value

    def per_layer(self, key: str, high: int) -> int:
        """As `whole`, but 0 if there is a number for each layer."""
        return 0 if isinstance(self.values.get(key), _Array) else self.whole(key, high)


def read_header(path: Path, descriptor: int | None = None) -> GgufHeader:
    """Read and check the header of a GGUF file; touches only the header's pages.

    Of the file that is open as `descriptor`, if it is given; `path` is its name in errors.

    Raises:
        ModelFormatError: it is no GGUF file, is truncated, or names no architecture; the message
            names the path and a remedy.
        OSError: the file cannot be opened.
    """
    if descriptor is None:
        with path.open("rb") as file:
            return read_header(path, file.fileno())
    size = os.fstat(descriptor).st_size
    if size < 24:
        raise ModelFormatError(f"{path} is not a GGUF file: it has only {size} bytes")
    with mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) as data:
        if data[:4] != _MAGIC:
            raise ModelFormatError(
                f"{path} is not a GGUF file (it begins with {data[:4]!r}, not {_MAGIC!r}): "
                "name a .gguf file, or convert the model with llama.cpp's convert_hf_to_gguf.py"
            )
        try:
            return _read(path, _Reader(data), size)
        except EOFError:
            raise ModelFormatError(
                f"{path} is truncated: its {size} bytes end within the header; "
                "download or copy it again"
            ) from None
        except ValueError as exc:
            raise ModelFormatError(
                f"{path} is not a readable GGUF file: {exc}; download or copy it again"
            ) from exc


def _read(path: Path, reader: _Reader, size: int) -> GgufHeader:
    reader.raw(4)
    version = reader.number(_U32)
    if version not in (2, 3):
        raise ModelFormatError(
            f"{path} is a GGUF file of version {version}; supported are versions 2 and 3"
        )
    tensor_count, pair_count = reader.number(_U64), reader.number(_U64)
    if tensor_count > _MAX_TENSORS or pair_count > _MAX_PAIRS:
        raise ValueError(f"it has {tensor_count} tensors and {pair_count} values of metadata")
    metadata = _Metadata()
    for _ in range(pair_count):
        key = reader.string()
        if key in metadata.values:
            raise ValueError(f"its metadata has {key!r} twice")
        metadata.values[key] = reader.value(reader.number(_U32))
    alignment = metadata.whole("general.alignment", 2**31, low=1, default=32)
    if alignment & (alignment - 1):
        raise ValueError(f"general.alignment is {alignment}, and must be a power of 2")
    tensors = _tensors(reader, tensor_count, alignment)
    needed = -(-reader.position // alignment) * alignment + tensors.end
    if needed > size:
        raise ModelFormatError(
            f"{path} is truncated: it has {size} bytes and its tensors need {needed}; "
            "download or copy it again"
        )
    # The first file of a split model may have no tensors; the others have nothing else.
    split = metadata.whole("split.count", _U16_MAX) > 1
    architecture = metadata.text("general.architecture")
    later = split and metadata.whole("split.no", _U16_MAX) > 0
    if not (architecture or later) or not (tensor_count or split):
        raise ModelFormatError(
            f"{path} has no model in it: it names no architecture or has no tensors"
        )
    if not later:
        _check_layers(metadata, architecture, reader)
        _check_vocabulary(metadata, reader)
    pooling = metadata.values.get(f"{architecture}.pooling_type")
    licence = metadata.values.get("general.license")
    return GgufHeader(
        architecture=architecture,
        name=metadata.text("general.name"),
        context_length=metadata.whole(f"{architecture}.context_length", _U32_MAX),
        causal=metadata.flag(f"{architecture}.attention.causal", True),
        pooling=None if pooling is None else _POOLING.get(pooling, str(pooling)),
        has_chat_template=bool(metadata.text("tokenizer.chat_template")),
        matrix_types=tensors.matrix_types,
        kv_bytes_per_token=_kv_bytes(metadata, architecture),
        dimensions=metadata.whole(f"{architecture}.embedding_length_out", _U32_MAX)
        or metadata.per_layer(f"{architecture}.embedding_length", _U32_MAX),
        parameters=tensors.parameters,
        licence=licence if isinstance(licence, str) else "",
        thinks=tags_of(metadata.text("tokenizer.chat_template")) is not None,
    )


def _check_layers(metadata: _Metadata, architecture: str, reader: _Reader) -> None:
    """What llama.cpp asserts of every architecture: where it fails, the process ends."""

    def number(key: str, high: int, *, low: int = 0, default: int = 0) -> int:
        return metadata.whole(f"{architecture}.{key}", high, low=low, default=default)

    layers = number("block_count", _MAX_LAYERS, low=1, default=1)
    number("nextn_predict_layers", layers)
    experts = number("expert_count", _MAX_EXPERTS)
    # For these llama.cpp ignores a single expert.
    if experts > 1 or not architecture.startswith("hunyuan"):
        used = metadata.values.get(f"{architecture}.expert_used_count")
        if not isinstance(used, _Array):  # a number for each layer
            number("expert_used_count", experts, low=min(experts, 1))
        elif used.kind == _STRING or not (
            min(experts, 1) <= max(reader.items(used), default=0) <= experts
        ):
            raise ValueError(f"it uses more than its {experts} experts, or none")
        groups = number("expert_group_count", max(0, experts - 1))
        if groups > 1:
            number("expert_group_used_count", groups - 1, low=1)
            if experts % groups:
                raise ValueError(f"its {experts} experts are in {groups} groups of unequal size")
    for key, value in metadata.values.items():
        if isinstance(value, float) and key.startswith(f"{architecture}."):
            negative = value < 0 and key.endswith("_epsilon")
            if negative or not math.isfinite(value):
                raise ValueError(f"{key} is {value}")
    scaling = metadata.text(f"{architecture}.rope.scaling.type", "none")
    if scaling not in ("none", "linear", "yarn", "longrope"):
        raise ValueError(f"{architecture}.rope.scaling.type is {scaling!r}")


def _check_vocabulary(metadata: _Metadata, reader: _Reader) -> None:
    """What llama.cpp asserts of the vocabulary, when it loads it or at the first text."""
    tokenizer = metadata.text("tokenizer.ggml.model")
    if tokenizer in ("none", "no_vocab"):
        raise ValueError("it has no vocabulary")
    array = metadata.values.get("tokenizer.ggml.tokens")
    if not isinstance(array, _Array) or array.kind != _STRING:
        return  # llama.cpp refuses it
    tokens = reader.items(array)
    different = set(tokens)
    if b"" in different:  # llama.cpp renames them
        different = {token or b"[EMPTY_%d]" % index for index, token in enumerate(tokens)}
    if len(different) < array.count:
        raise ValueError("its vocabulary has a token twice")
    special = _SPECIAL_TOKENS.get(tokenizer, {})
    added = {
        name: array.count
        for name in ("bos", "eos")
        if metadata.flag(f"tokenizer.ggml.add_{name}_token", False)
    }
    for name, default in {**added, **special}.items():
        token = metadata.values.get(f"tokenizer.ggml.{name}_token_id", default)
        if (type(token) is not int or token >= array.count) and default >= array.count:
            raise ValueError(f"its vocabulary of {array.count} tokens has no {name} token: {token}")
    types = metadata.values.get("tokenizer.ggml.token_type")
    if tokenizer == "bert" and isinstance(types, _Array) and _BYTE_TOKEN in reader.items(types):
        raise ValueError("its vocabulary of words has a token that stands for a byte")
    if tokenizer == "llama":
        for byte in range(256):
            if b"<0x%02X>" % byte not in different and bytes([byte]) not in different:
                raise ValueError(f"its vocabulary has no token for the byte 0x{byte:02X}")


def _kv_bytes(metadata: _Metadata, architecture: str) -> int:
    """Keys and values of all layers, as float16; 0 if a number is missing."""

    def number(key: str) -> int:
        return metadata.per_layer(f"{architecture}.{key}", _U32_MAX)

    heads = number("attention.head_count")
    kv_heads = number("attention.head_count_kv") or heads
    head = number("embedding_length") // heads if heads else 0
    keys = number("attention.key_length") or head
    values = number("attention.value_length") or head
    return number("block_count") * kv_heads * (keys + values) * 2


@attrs.frozen
class _Tensors:
    """The bytes of the tensor data, the types of the matrices, and the number of weights."""

    end: int
    matrix_types: tuple[str, ...]
    parameters: int


def _tensors(reader: _Reader, count: int, alignment: int) -> _Tensors:
    end = parameters = 0
    matrix_types = set()
    for _ in range(count):
        tensor = reader.string()
        dimensions = reader.number(_U32)
        if dimensions > _MAX_DIMENSIONS:
            raise ValueError(f"its tensor {tensor!r} has {dimensions} dimensions")
        shape = [reader.number(_U64) for _ in range(dimensions)]
        kind = reader.number(_U32)
        offset = reader.number(_U64)
        values = math.prod(shape)
        name, block, block_bytes = _TENSOR_TYPES.get(kind, (f"type {kind}", 1, 0))
        if offset % alignment or (shape and shape[0] % block):
            raise ValueError(
                f"its tensor {tensor!r} of type {name} has offset {offset} and shape {shape}"
            )
        if dimensions >= 2:
            matrix_types.add(name)
        parameters += values
        end = max(end, offset + -(-values // block) * block_bytes)
    return _Tensors(end, tuple(sorted(matrix_types)), parameters)
