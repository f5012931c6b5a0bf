"""The header of a GGUF file, read without llama.cpp.

llama.cpp maps a file and trusts it: a truncated one can crash the process. So the header is checked
here first: magic, version, metadata, and that the tensor data lies within the file. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

import attrs

from asteady._base.errors import ModelFormatError
from asteady._base.requests import Kind

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_SCALARS = {
    kind: struct.Struct("<" + code)
    for kind, code in zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True)
}
_U32 = _SCALARS[4]
_U64 = _SCALARS[10]

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
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    20: ("IQ4_NL", 32, 18),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    30: ("BF16", 1, 2),
    39: ("MXFP4", 32, 17),
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
    position, as float16, or 0 if unknown. `licence` is the metadata's text.
    """

    architecture: str
    name: str
    context_length: int
    causal: bool
    pooling: str | None
    has_chat_template: bool
    matrix_types: tuple[str, ...]
    kv_bytes_per_token: int = 0
    licence: str = ""

    @property
    def kind(self) -> Kind:
        if self.architecture in _ENCODERS or not self.causal or self.pooling not in (None, "none"):
            return "embedding"
        return "generation"


class _Reader:
    """Reads the parts of a header; raises EOFError where it goes on after the end of the file."""

    def __init__(self, data: mmap.mmap | bytes) -> None:
        self._data = data
        self.position = 0

    def _take(self, count: int) -> int:
        start = self.position
        if count < 0 or start + count > len(self._data):
            raise EOFError
        self.position = start + count
        return start

    def number(self, kind: struct.Struct) -> Any:
        return kind.unpack_from(self._data, self._take(kind.size))[0]

    def raw(self, count: int) -> bytes:
        start = self._take(count)
        return self._data[start : start + count]

    def string(self) -> str:
        return self.raw(self.number(_U64)).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        """A scalar or a string; None for an array (a vocabulary), which is skipped."""
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            self._skip_array()
            return None
        if kind not in _SCALARS:
            raise ValueError(f"its metadata has a value of the unknown type {kind}")
        return self.number(_SCALARS[kind])

    def _skip_array(self) -> None:
        kind = self.number(_U32)
        count = self.number(_U64)
        if kind == _STRING:
            for _ in range(count):
                self._take(self.number(_U64))
        elif kind in _SCALARS:
            self._take(count * _SCALARS[kind].size)
        elif kind == _ARRAY:
            for _ in range(count):
                self._skip_array()
        else:
            raise ValueError(f"its metadata has an array of the unknown type {kind}")


def read_header(path: Path) -> GgufHeader:
    """Read and check the header of a GGUF file; touches only the header's pages.

    Raises:
        ModelFormatError: it is no GGUF file, is truncated, or names no architecture; the message
            names the path and a remedy.
        OSError: the file cannot be opened.
    """
    size = path.stat().st_size
    if size < 24:
        raise ModelFormatError(f"{path} is not a GGUF file: it has only {size} bytes")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
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
    tensor_count = reader.number(_U64)
    metadata = {}
    for _ in range(reader.number(_U64)):
        key = reader.string()
        metadata[key] = reader.value(reader.number(_U32))
    end, matrix_types = _tensors(reader, tensor_count)
    alignment = int(metadata.get("general.alignment", 32))
    if alignment < 1:
        raise ValueError(f"its alignment is {alignment}")
    needed = -(-reader.position // alignment) * alignment + end
    if needed > size:
        raise ModelFormatError(
            f"{path} is truncated: it has {size} bytes and its tensors need {needed}; "
            "download or copy it again"
        )
    # The first file of a split model may have no tensors; the others have nothing else.
    split = int(metadata.get("split.count") or 0) > 1
    architecture = metadata.get("general.architecture")
    if architecture is None and split and metadata.get("split.no"):
        architecture = ""
    if not isinstance(architecture, str) or not (tensor_count or split):
        raise ModelFormatError(
            f"{path} has no model in it: it names no architecture or has no tensors"
        )
    pooling = metadata.get(f"{architecture}.pooling_type")
    return GgufHeader(
        architecture=architecture,
        name=str(metadata.get("general.name", "")),
        context_length=int(metadata.get(f"{architecture}.context_length", 0)),
        causal=bool(metadata.get(f"{architecture}.attention.causal", True)),
        pooling=None if pooling is None else _POOLING.get(pooling, str(pooling)),
        has_chat_template=bool(metadata.get("tokenizer.chat_template", "")),
        matrix_types=matrix_types,
        kv_bytes_per_token=_kv_bytes(metadata, architecture),
        licence=str(metadata.get("general.license", "")),
    )


def _kv_bytes(metadata: dict[str, Any], architecture: str) -> int:
    """Keys and values of all layers, as float16; 0 if a number is missing."""

    def number(key: str) -> int:
        return int(metadata.get(f"{architecture}.{key}") or 0)

    heads = number("attention.head_count")
    kv_heads = number("attention.head_count_kv") or heads
    head = number("embedding_length") // heads if heads else 0
    keys = number("attention.key_length") or head
    values = number("attention.value_length") or head
    return number("block_count") * kv_heads * (keys + values) * 2


def _tensors(reader: _Reader, count: int) -> tuple[int, tuple[str, ...]]:
    """The size of the tensor data in bytes, and the types of the matrices."""
    end = 0
    matrix_types = set()
    for _ in range(count):
        reader.string()
        dimensions = reader.number(_U32)
        values = 1
        for _ in range(dimensions):
            values *= reader.number(_U64)
        kind = reader.number(_U32)
        offset = reader.number(_U64)
        name, block, block_bytes = _TENSOR_TYPES.get(kind, (f"type {kind}", values or 1, 0))
        if dimensions >= 2:
            matrix_types.add(name)
        end = max(end, offset + -(-values // block) * block_bytes)
    return end, tuple(sorted(matrix_types))
