"""The check of a GGUF file's header, which llama.cpp would not survive in some cases."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import gguf
import pytest

from asteady._base.errors import ModelFormatError
from asteady._engine.models.gguf import read_header
from tests.gguf_files import corrupted, write_bert, write_llama


def test_a_file_cut_anywhere_is_refused(models: Path, tmp_path: Path) -> None:
    source = models / "bert.gguf"
    size = source.stat().st_size
    path = tmp_path / "cut.gguf"
    for keep in [0, 3, 23, 24, 40, *range(50, size, 997), size - 1]:
        corrupted(source, path, keep_bytes=keep)
        with pytest.raises(ModelFormatError) as caught:
            read_header(path)
        assert str(path) in str(caught.value)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ModelFormatError, match=r"not a GGUF file.*convert"):
        read_header(path)


def test_an_unknown_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<I", 99) + bytes(100))
    with pytest.raises(ModelFormatError, match="version 99"):
        read_header(path)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def array(kind: int, count: int, items: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + items


def tensor(*shape: int, kind: int = 0, offset: int = 0) -> bytes:
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text("t") + dimensions + struct.pack("<IQ", kind, offset)


ARCHITECTURE = pair("general.architecture", 8, text("llama"))
DEEP = b"".join(struct.pack("<IQ", 9, 1) for _ in range(100_000))


def header(*pairs: bytes, tensors: int = 0, described: bytes = b"") -> bytes:
    counts = struct.pack("<IQQ", 3, tensors, len(pairs))
    return b"GGUF" + counts + b"".join(pairs) + described + bytes(64)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (header(), "no model"),
        (header(pair("k", 99, b"")), "unknown type 99"),
        (header(pair("k", 9, array(99, 1))), "unknown type 99"),
        (header(pair("k", 9, DEEP)), "array of the unknown type 9"),
        (header(pair("k", 9, array(8, 2**63))), "9223372036854775808 strings"),
        (header(pair("k", 9, array(0, 2**63))), "truncated"),
        (header(pair("k", 8, struct.pack("<Q", 2**62))), "a string of 4611686018427387904 bytes"),
        (header(pair("k", 0, b"1"), pair("k", 0, b"1")), "'k' twice"),
        (header(pair("general.alignment", 4, struct.pack("<I", 0))), "alignment is 0"),
        (header(pair("general.alignment", 4, struct.pack("<I", 24))), "a power of 2"),
        (header(pair("general.alignment", 6, struct.pack("<f", math.inf))), "alignment is inf"),
        (header(pair("general.alignment", 9, array(0, 3, b"abc"))), "is an array of 3"),
        (header(pair("general.architecture", 9, array(0, 3, b"abc"))), "must be a string"),
        (header(tensors=2**40), "1099511627776 tensors"),
        (header(tensors=2**19), "truncated"),
        (header(tensors=1, described=text("t") + struct.pack("<I", 2_000_000)), "dimensions"),
        (header(ARCHITECTURE, tensors=1, described=tensor(7, kind=8)), "Q8_0 has .*shape .7"),
        (header(ARCHITECTURE, tensors=1, described=tensor(1, offset=3)), "has offset 3"),
        (header(ARCHITECTURE, tensors=1, described=tensor(2**40, 2**40)), "tensors need"),
    ],
)
def test_a_damaged_header_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFormatError, match=reason):
        read_header(path)


def test_unknown_tensor_types_and_arrays_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    names = pair("names", 9, array(8, 1, text("ab")))
    layers = pair("llama.attention.head_count_kv", 9, array(4, 1, bytes(4)))
    path.write_bytes(
        header(ARCHITECTURE, names, layers, tensors=1, described=tensor(4, 4, kind=77))
    )
    assert read_header(path).matrix_types == ("type 77",)
    assert read_header(path).parameters == 16


def copied(source: Path, path: Path, **changes: Any) -> Path:
    """The metadata of a model with other values, and one small tensor; None leaves a key out."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(path, architecture)
    values = {
        name: (field.contents(), field.types[0], field.types[-1])
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.") and name != "general.architecture"
    }
    for name, value in changes.items():
        key = name.replace("__", ".").replace("ARCH", architecture)
        if value is None:
            del values[key]
        else:
            kind = gguf.GGUFValueType.get_type(value)
            inner = gguf.GGUFValueType.get_type(value[0]) if isinstance(value, list) else kind
            whole = inner is gguf.GGUFValueType.INT32 and not isinstance(value, list)
            kind = gguf.GGUFValueType.UINT32 if whole else kind
            values[key] = (value, kind, kind if whole else inner)
    for key, (value, kind, inner) in values.items():
        writer.add_key_value(key, value, kind, inner if kind is gguf.GGUFValueType.ARRAY else None)
    writer.add_tensor("t", reader.tensors[0].data[:1].copy().view("float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ARCH__block_count": 4_000_000_000}, "block_count is 4000000000.*from 1 to 512"),
        ({"ARCH__block_count": 0}, "block_count is 0"),
        ({"ARCH__context_length": [1, 2]}, "context_length is an array of 2"),
        ({"ARCH__context_length": math.inf}, "context_length is inf"),
        ({"ARCH__rope__freq_base": math.nan}, "freq_base is nan"),
        ({"ARCH__attention__layer_norm_rms_epsilon": -1.0}, "epsilon is -1"),
        ({"ARCH__nextn_predict_layers": 600}, "nextn_predict_layers is 600"),
        ({"ARCH__expert_count": 5000}, "expert_count is 5000"),
        ({"ARCH__expert_count": 4}, "expert_used_count is 0.*from 1 to 4"),
        ({"ARCH__expert_used_count": 4}, "expert_used_count is 4"),
        ({"ARCH__expert_count": 4, "ARCH__expert_used_count": [1, 5]}, "more than its 4 experts"),
        (
            {
                "ARCH__expert_count": 8,
                "ARCH__expert_used_count": 2,
                "ARCH__expert_group_count": 3,
                "ARCH__expert_group_used_count": 1,
            },
            "8 experts are in 3 groups",
        ),
        ({"ARCH__rope__scaling__type": "other"}, "scaling.type is 'other'"),
        ({"tokenizer__ggml__tokens": ["a", "b", "a"]}, "a token twice"),
        ({"tokenizer__ggml__tokens": ["<s>", "a", "b"]}, "no token for the byte 0x00"),
        ({"tokenizer__ggml__model": "none"}, "no vocabulary"),
        ({"tokenizer__ggml__model": "bert"}, "stands for a byte"),
        ({"tokenizer__ggml__model": "gpt2", "tokenizer__ggml__tokens": ["a"]}, "no bos token"),
        ({"tokenizer__ggml__add_bos_token": 7}, "add_bos_token is 7"),
    ],
)
def test_what_llama_cpp_would_abort_on_is_refused(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    if "tokenizer__ggml__add_bos_token" not in changes:
        changes = {"tokenizer__ggml__add_bos_token": None, **changes}
    source = write_llama(tmp_path / "source.gguf", vocabulary="spm")
    with pytest.raises(ModelFormatError, match=reason):
        read_header(copied(source, tmp_path / "model.gguf", **changes))


def test_a_model_of_words_needs_its_special_tokens(tmp_path: Path) -> None:
    source = write_bert(tmp_path / "source.gguf")
    read_header(copied(source, tmp_path / "same.gguf"))
    path = copied(source, tmp_path / "model.gguf", tokenizer__ggml__seperator_token_id=4_000_000)
    with pytest.raises(ModelFormatError, match="no seperator token: 4000000"):
        read_header(path)


def test_empty_tokens_and_experts_that_fit_are_accepted(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "source.gguf", vocabulary="spm")
    tokens = gguf.GGUFReader(source).fields["tokenizer.ggml.tokens"].contents()
    path = copied(
        source,
        tmp_path / "model.gguf",
        tokenizer__ggml__tokens=[*tokens, "", ""],
        ARCH__expert_count=8,
        ARCH__expert_used_count=[2, 3],
        ARCH__expert_group_count=4,
        ARCH__expert_group_used_count=2,
    )
    assert read_header(path).kind == "generation"
