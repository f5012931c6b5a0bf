from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pytest

from asteady._base.errors import EngineError
from asteady._base.settings import Settings
from asteady._engine.api import DescribesFingerprints
from asteady._engine.build import digest_of, libraries, processor
from asteady._engine.fingerprint import FingerprintParts
from asteady._engine.llama import lib as _llama_lib
from asteady._engine.loader import LlamaSource, build_of, fingerprint_of
from asteady._engine.models.resolve import ModelFile, resolve_model
from asteady._engine.plan import EngineOptions, Setup
from tests.engine.conftest import load


@pytest.fixture
def file(models: Path) -> ModelFile:
    return resolve_model(str(models / "gpt2.gguf"), kind="generation", cache_dir=models)


def test_a_fingerprint_is_that_of_the_loaded_engine(models: Path, file: ModelFile) -> None:
    for options in (EngineOptions(), EngineOptions(probe=False), EngineOptions(batch_width=2)):
        engine = load(models, "gpt2.gguf", options)
        assert engine.fingerprint == fingerprint_of(file, options, models)
        engine.close()


def test_everything_that_can_change_an_answer_changes_the_fingerprint(
    models: Path, file: ModelFile
) -> None:
    variants: Iterable[tuple[ModelFile, EngineOptions, Setup]] = [
        (file, EngineOptions(), Setup()),
        (file, EngineOptions(context_tokens=128), Setup()),
        (file, EngineOptions(gpu_layers=3), Setup()),
        (file, EngineOptions(gpu_layers=-1), Setup()),
        (file, EngineOptions(), Setup(repack=True)),
        (attrs.evolve(file, sha256="0" * 64), EngineOptions(), Setup()),
    ]
    digests = {fingerprint_of(model, options, models, setup) for model, options, setup in variants}
    assert len(digests) == 6


def test_what_changes_no_answer_leaves_the_fingerprint(models: Path, file: ModelFile) -> None:
    moved = attrs.evolve(file, path=Path("/elsewhere.gguf"), reference="other")
    expected = fingerprint_of(file, EngineOptions(), models)
    for options in (
        EngineOptions(threads=2, cores=7, batch_width=3, probe=False, context_bytes=2**20),
        # More than the model was trained on.
        EngineOptions(context_tokens=10**6),
    ):
        assert fingerprint_of(file, options, models) == expected
    alone = fingerprint_of(file, EngineOptions(), models, Setup())
    assert fingerprint_of(file, EngineOptions(), models, Setup(width=2)) == alone
    assert fingerprint_of(moved, EngineOptions(), models) == expected


def test_another_build_or_cpu_changes_the_fingerprint(
    models: Path, file: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = EngineOptions(probe=False)
    expected = fingerprint_of(file, options, tmp_path)
    for place, change in enumerate([("1.0", "AVX512 = 1"), ("0.5.0", "AVX2 = 1")]):
        monkeypatch.setattr(_llama_lib, "version_and_system", lambda change=change: change)
        assert fingerprint_of(file, options, tmp_path / str(place)) != expected


def test_the_build_is_the_same_for_threads_that_read_it_at_the_same_moment() -> None:
    """llama.cpp describes the system in one string for all threads."""

    def read(_: int) -> set[tuple[str, str]]:
        return {_llama_lib.version_and_system() for _ in range(10_000)}

    with ThreadPoolExecutor(4) as threads:
        assert len(set().union(*threads.map(read, range(4)))) == 1


PARTS = FingerprintParts(
    model="0" * 64,
    libraries="1" * 64,
    version="0.3.36 0.5.0-dev",
    system="CPU : SSE3 = 1 | AVX2 = 1 | ",
    context_tokens=512,
    repack=True,
    piece_tokens=64,
)


@pytest.mark.parametrize(
    ("changes", "digest"),
    [
        ({}, "269082f33f7d4f41e8872a8e9606494099a3f5706fbd20cac8241356ba99595a"),
        (
            {"gpu_layers": -1, "piece_tokens": 512, "repack": False},
            "98da460c2da75da75e1e5ce5aa54bf88d68393ff7aa7546181b3bcc46aac8cd6",
        ),
        ({"thinking": True}, "185f671813cdb8660d8a385e83c1e79687402778a39efc0a8dd18fbea8f6f04c"),
    ],
)
def test_fingerprints_are_those_of_earlier_versions(changes: dict[str, Any], digest: str) -> None:
    """As the caches of users have them."""
    assert attrs.evolve(PARTS, **changes).digest == digest


@pytest.mark.parametrize("name", ["libraries", "system", "repack"])
def test_a_portable_fingerprint_does_not_depend_on_the_cpu(name: str) -> None:
    changes: dict[str, Any] = {name: not getattr(PARTS, name)}
    other = attrs.evolve(PARTS, **changes)
    assert other.digest != PARTS.digest
    assert other.portable_digest == PARTS.portable_digest != PARTS.digest


def test_a_portable_fingerprint_depends_on_everything_else() -> None:
    names = set(attrs.fields_dict(FingerprintParts)) - {
        *("libraries", "system", "repack"),
        "files",  # which `model` has
    }
    digests = set()
    for name in names:
        changes: dict[str, Any] = {name: "other" if name in ("model", "version") else 7}
        digests.add(attrs.evolve(PARTS, **changes).portable_digest)
    assert len(digests - {PARTS.portable_digest}) == len(names)


def test_a_source_tells_the_portable_fingerprint_of_what_it_identified_and_loaded(
    models: Path, file: ModelFile
) -> None:
    source = LlamaSource(Settings(cache_dir=models))
    assert isinstance(source, DescribesFingerprints)
    reference = str(file.path)
    named = source.fingerprint_parts("generation", reference)
    assert json.loads(json.dumps(named)) == named
    parts = FingerprintParts(**named)
    assert parts.digest == source.fingerprint("generation", reference)
    assert source.portable_fingerprint(parts.digest) == parts.portable_digest
    engine = source.load("generation", reference)
    assert source.portable_fingerprint(engine.fingerprint) == parts.portable_digest
    engine.close()


def test_a_known_build_needs_no_llama_cpp(models: Path, file: ModelFile) -> None:
    expected = fingerprint_of(file, EngineOptions(), models)
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from asteady._engine.loader import EngineOptions, fingerprint_of\n"
        "from asteady._engine.models.resolve import resolve_model\n"
        "import asteady._engine.pool\n"
        "file = resolve_model(sys.argv[1], kind='generation', cache_dir=Path(sys.argv[2]))\n"
        "print(fingerprint_of(file, EngineOptions(), Path(sys.argv[2])))\n"
        "assert not {'llama_cpp', 'numpy', 'jinja2'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file.path), str(models)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == expected


def test_the_build_names_the_libraries_and_the_cpu_features(tmp_path: Path) -> None:
    build = build_of(tmp_path)
    assert len(build["libraries"]) == 64
    assert "CPU" in build["system"]
    assert build_of(tmp_path) == build


def test_the_build_is_told_while_another_thread_imports_llama_cpp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = build_of(tmp_path)
    begun = ModuleType("asteady._engine.llama")
    monkeypatch.setitem(sys.modules, "asteady._engine.llama", begun)
    assert build_of(tmp_path) == build


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="Linux tells its CPU there")
def test_a_build_is_remembered_for_this_cpu_alone() -> None:
    described = processor()
    assert "flags" in described or "Features" in described
    assert "MHz" not in described


def test_a_changed_library_is_another_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "lib"
    folder.mkdir()
    (folder / "libllama.so").write_bytes(b"one")
    (folder / "libggml-cpu.so").write_bytes(b"two")
    (folder / "libggml-cpu.so.0").write_bytes(b"two")
    (folder / "libmtmd.so").write_bytes(b"images")
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(folder))
    first = digest_of(libraries())
    (folder / "libmtmd.so").write_bytes(b"other images")
    assert digest_of(libraries()) == first
    # The name by which the other libraries load it.
    (folder / "libggml-cpu.so.0").write_bytes(b"three")
    assert digest_of(libraries()) != first


def test_a_spoiled_memory_of_the_build_is_made_anew(tmp_path: Path) -> None:
    build = build_of(tmp_path)
    memory = tmp_path / "builds.json"
    memory.write_text(json.dumps(dict.fromkeys(json.loads(memory.read_text()), 1)))
    assert build_of(tmp_path) == build


def test_a_missing_llama_cpp_is_an_error_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EngineError, match='pip install "llama-cpp-python'):
        build_of(tmp_path)


def test_a_text_is_as_long_as_memory_allows_unless_the_settings_say_more() -> None:
    assert EngineOptions().context_for("embedding", 32_768) == 4096
    assert EngineOptions(context_tokens=8192).context_for("embedding", 32_768) == 8192
    assert EngineOptions(context_tokens=8192).context_for("embedding", 512) == 512
    assert EngineOptions().context_for("generation", 32_768) == 32_768
