"""Input that somebody else chose: the outcome is a result or an error of asteady, always."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from asteady import (
    AsteadyError,
    InvalidRequestError,
    ModelFormatError,
    Settings,
    SettingsError,
    blocking,
)
from asteady._base.options import EmbedOptions, GenerateOptions
from asteady._base.requests import KINDS, EmbedRequest, GenerateRequest, Kind
from asteady._base.settings import NAMED_MODELS
from asteady._engine.models.gguf import GgufHeader, read_header
from asteady._engine.models.resolve import resolve_model
from asteady.testing import FakeEngine
from tests.faults.campaign import rounds
from tests.faults.test_damaged_models import damaged_header
from tests.gguf_files import write_bert, write_llama


def many(short: int, long: int) -> settings:
    return settings(
        max_examples=rounds(short, long),
        deadline=None,
        # The files and directories of a function's fixtures are the same for all its examples.
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


# -- the header of a GGUF file ---------------------------------------------------------------------

U32 = st.one_of(st.integers(0, 12), st.integers(0, 2**32 - 1))
U64 = st.one_of(st.integers(0, 40), st.integers(0, 2**64 - 1))
KEYS = st.sampled_from(
    [
        "general.architecture",
        "general.alignment",
        "general.name",
        "general.license",
        "split.count",
        "split.no",
        "tokenizer.ggml.model",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.token_type",
        "tokenizer.ggml.bos_token_id",
        "tokenizer.ggml.add_bos_token",
        "tokenizer.chat_template",
        *(
            f"llama.{name}"
            for name in (
                "block_count",
                "context_length",
                "embedding_length",
                "pooling_type",
                "attention.causal",
                "attention.head_count",
                "attention.head_count_kv",
                "attention.key_length",
                "attention.layer_norm_rms_epsilon",
                "expert_count",
                "expert_used_count",
                "expert_group_count",
                "nextn_predict_layers",
                "rope.scaling.type",
            )
        ),
    ]
)
STRINGS = st.one_of(
    st.sampled_from([b"llama", b"bert", b"gpt2", b"none", b"<0x00>", b""]), st.binary(max_size=8)
).map(lambda raw: struct.pack("<Q", len(raw)) + raw)
CODES = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIifBQqd", strict=True))


def scalars(kind: int) -> st.SearchStrategy[bytes]:
    size = struct.calcsize(CODES[kind])
    limits = [bytes(size), b"\xff" * size, b"\x01" + bytes(size - 1)]
    return st.one_of(st.sampled_from(limits), st.binary(min_size=size, max_size=size))


@st.composite
def values(draw: st.DrawFn, depth: int = 0) -> tuple[int, bytes]:
    """A value's type and bytes, more or less well-formed."""
    kind = draw(st.one_of(st.sampled_from([*CODES, 8, 9]), U32))
    if kind == 8:
        return kind, draw(STRINGS)
    if kind == 9 and depth < 3:
        inner = draw(values(depth + 1))
        items = draw(st.integers(0, 3))
        count = draw(st.one_of(st.just(items), U64))
        return kind, struct.pack("<IQ", inner[0], count) + inner[1] * items
    return kind, draw(scalars(kind)) if kind in CODES else b""


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    pairs = b""
    count = draw(st.integers(0, 8))
    for _ in range(count):
        key = draw(KEYS).encode()
        kind, value = draw(values())
        pairs += struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value
    tensors = draw(st.integers(0, 3))
    for _ in range(tensors):
        shape = draw(st.lists(U64, max_size=5))
        pairs += draw(STRINGS) + struct.pack("<I", draw(st.one_of(st.just(len(shape)), U32)))
        pairs += b"".join(struct.pack("<Q", size) for size in shape)
        pairs += struct.pack("<IQ", draw(U32), draw(U64))
    counts = struct.pack("<IQQ", draw(st.sampled_from([2, 3, 3, 99])), tensors, count)
    return b"GGUF" + counts + pairs + bytes(draw(st.integers(0, 128)))


def read(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        header = read_header(path)
    except ModelFormatError:
        return
    assert isinstance(header, GgufHeader)
    assert header.kind in KINDS
    assert header.kv_bytes_per_token >= 0


@many(400, 4_000)
@given(st.one_of(headers(), st.binary(max_size=200).map(lambda data: b"GGUF" + data)))
def test_a_header_made_of_arbitrary_values(tmp_path: Path, data: bytes) -> None:
    read(tmp_path / "model.gguf", data)


def test_the_header_of_a_real_model_damaged_in_a_few_places(tmp_path: Path) -> None:
    """In this process: what the reader accepts is tried on llama.cpp in test_damaged_models."""
    for source in (write_llama(tmp_path / "llama.gguf"), write_bert(tmp_path / "bert.gguf")):
        reader, sound = gguf.GGUFReader(source), source.read_bytes()
        for seed in range(rounds(200, 4_000)):
            data = bytearray(sound)
            damaged_header(data, random.Random(seed), reader)
            read(tmp_path / "model.gguf", bytes(data))


# -- references ------------------------------------------------------------------------------------

TEXTS = st.one_of(
    st.text(max_size=20),
    st.text(st.characters(), max_size=20),  # with lone surrogates
    st.text("/~.:@hf-\0 \n\udce9é%$", max_size=20),
)
REFERENCES = st.one_of(
    TEXTS, TEXTS.map("hf:{}".format), TEXTS.map("hf:a/b/{}.gguf".format), TEXTS.map("~{}".format)
).filter(lambda text: text not in NAMED_MODELS)


@many(300, 4_000)
@given(REFERENCES, st.sampled_from(KINDS))
@example("/dev/zero", "generation")
@example("/proc/self/mem", "generation")
@example("/", "embedding")
@example("m-00001-of-99999.gguf", "generation")
@example("x" * 100_000, "generation")
def test_any_text_as_a_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, kind: Kind
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AsteadyError) as caught:
        resolve_model(reference, kind=kind, cache_dir=tmp_path)
    str(caught.value).encode()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_no_model(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.gguf")
    with pytest.raises(AsteadyError, match="not a file"):
        resolve_model(str(tmp_path / "model.gguf"), kind="generation", cache_dir=tmp_path)


# -- settings --------------------------------------------------------------------------------------

NUMBERS = st.one_of(st.integers().map(str), st.floats().map(str), st.from_regex(r"-?[0-9_eE.+]+"))
WORDS = st.sampled_from(
    ["1", "true", "off", "lru", "tide", "builtin", "testing", " 7 ", "٣", "~x/y"]
)
VARIABLES = st.sampled_from([field.name for field in attrs.fields(Settings)] + ["profile"])


@many(400, 4_000)
@given(
    st.dictionaries(
        st.tuples(st.sampled_from(["ASTEADY_", "STEADYTEXT_"]), VARIABLES).map(
            lambda name: name[0] + name[1].upper()
        ),
        st.one_of(NUMBERS, WORDS, TEXTS),
        max_size=4,
    )
)
def test_any_environment(environ: dict[str, str]) -> None:
    try:
        found = Settings.from_environment(environ=environ)
    except SettingsError as exc:
        str(exc).encode()
        return
    assert found == attrs.evolve(found), "valid settings are valid arguments too"
    for field in attrs.fields(Settings):
        value = getattr(found, field.name)
        assert isinstance(value, Path) or type(value).__module__ == "builtins"


# -- requests --------------------------------------------------------------------------------------


class Awkward:
    """Cannot be shown, compared or hashed."""

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        raise RuntimeError("no")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no")


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 50),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    TEXTS,
    st.binary(max_size=8),
    st.fractions(),
    st.decimals(),
    st.sampled_from(
        [np.int64(7), np.float32(0.5), np.bool_(True), np.str_("a"), np.float64("nan"), np.uint8(0)]
    ),
    st.builds(Awkward),
    st.builds(np.arange, st.integers(0, 3)),
    st.builds(iter, st.lists(st.text(max_size=2), max_size=2)),
)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(
            st.one_of(st.sampled_from(["role", "content"]), st.integers(), st.none()),
            inner,
            max_size=2,
        ),
    ),
    max_leaves=6,
)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.one_of(st.just("user"), ANYTHING), "content": ANYTHING}),
    max_size=3,
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(GenerateOptions.__annotations__, ANYTHING),
        "messages": st.one_of(MESSAGES, ANYTHING),
    },
)


@many(500, 4_000)
@given(st.one_of(TEXTS, ANYTHING), OPTIONS)
def test_anything_as_a_request_to_generate(prompt: Any, options: dict[str, Any]) -> None:
    try:
        request = GenerateRequest.of(prompt, **options)
    except InvalidRequestError as exc:
        str(exc).encode()
    else:
        # Plain values of plain types, which a key can be made of.
        assert eval(repr(attrs.astuple(request))) == attrs.astuple(request)
        assert len(request.key("fingerprint")) == 64


@many(300, 4_000)
@given(
    ANYTHING,
    st.fixed_dictionaries({}, optional=dict.fromkeys(EmbedOptions.__annotations__, ANYTHING)),
)
def test_anything_as_a_request_to_embed(text: Any, options: dict[str, Any]) -> None:
    try:
        request = EmbedRequest.of(text, **options)
    except InvalidRequestError as exc:
        str(exc).encode()
    else:
        assert eval(repr(attrs.astuple(request))) == attrs.astuple(request)


@pytest.mark.parametrize("name", [*GenerateOptions.__annotations__, "model", "cache"])
def test_deeply_nested_lists_as_an_option(session: blocking.Session, name: str) -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(AsteadyError, match=r"is not allowed|both were given"):
        session.generate("hi", **{name: deep})


@pytest.fixture
def session(tmp_path: Path) -> Iterator[blocking.Session]:
    with blocking.Session(engine=FakeEngine(lambda _: "hi"), cache_dir=tmp_path) as session:
        yield session


@many(200, 4_000)
@given(
    st.one_of(TEXTS, ANYTHING),
    OPTIONS,
    # The mode is compared first, on a path where each test costs: not with what cannot be compared.
    st.fixed_dictionaries({}, optional={"model": ANYTHING, "cache": TEXTS | st.integers()}),
)
def test_anything_as_a_call(
    session: blocking.Session, prompt: Any, options: dict[str, Any], more: dict[str, Any]
) -> None:
    try:
        assert isinstance(session.generate(prompt, **options, **more), str)
        assert session.complete(prompt, **options, **more).text == "hi"
    except AsteadyError as exc:
        str(exc).encode()
