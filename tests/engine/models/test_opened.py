"""What is loaded is what was identified, and what is written to it later is noticed."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import llama_cpp
import pytest

from asteady._base.errors import ModelChangedError, ModelFormatError
from asteady._base.requests import GenerateRequest
from asteady._base.settings import Settings
from asteady._engine.api import AnswerEvent, ErrorEvent
from asteady._engine.llama.lib import load_model
from asteady._engine.loader import LlamaSource, load_engine
from asteady._engine.models import opened
from asteady._engine.models.opened import OpenModel
from asteady._engine.models.resolve import ModelFile, resolve_model
from asteady._engine.plan import EngineOptions
from tests.gguf_files import parts_of, write_llama

PLAIN = EngineOptions(probe=False)


@pytest.fixture
def path(models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(models / "gpt2.gguf", tmp_path / "model.gguf"))


def resolve(path: Path) -> ModelFile:
    return resolve_model(str(path), kind="generation", cache_dir=path.parent / "caches")


@pytest.fixture
def file(path: Path) -> ModelFile:
    return resolve(path)


def overwrite(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x7f")


def overwrite_and_keep_the_time(path: Path) -> None:
    before = path.stat().st_mtime_ns
    overwrite(path)
    os.utime(path, ns=(before, before))


def append(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"\0")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0


@pytest.mark.parametrize("write", [overwrite, overwrite_and_keep_the_time, append, os.truncate])
def test_what_is_written_to_an_open_model_is_noticed(
    path: Path, file: ModelFile, write: Callable[..., None]
) -> None:
    with closing(OpenModel(file)) as files:
        files.check()
        write(path, 100) if write is os.truncate else write(path)
        for _ in range(2):
            with pytest.raises(ModelChangedError, match=r"model\.gguf was written to .*again"):
                files.check()


def test_what_leaves_the_content_is_no_change(
    path: Path, file: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    digest = hashlib.file_digest

    def noted(*given: Any) -> Any:
        read.append(given)
        return digest(*given)

    shutil.copy(path, path.with_name("new"))
    monkeypatch.setattr(hashlib, "file_digest", noted)
    with closing(OpenModel(file)) as files:
        checked = files.check()
        changes: list[Callable[[], object]] = [
            lambda: path.chmod(0o600),
            lambda: os.link(path, path.with_name("backup")),
            lambda: os.replace(path.with_name("new"), path),
        ]
        for change in changes:
            change()
            files.check(since=checked)
            files.check(since=checked)
        # Once for each change.
        assert len(read) == 3


def test_what_may_have_been_written_and_taken_back_is_no_basis_for_an_answer(
    path: Path, file: ModelFile
) -> None:
    before = path.read_bytes()
    times = (path.stat().st_mtime_ns,) * 2
    with closing(OpenModel(file)) as files:
        checked = files.check()
        assert files.check(since=checked) == checked
        for content in (b"\x7f" * len(before), before):
            with path.open("r+b") as stream:
                stream.write(content)
            os.utime(path, ns=times)
        for _ in range(2):
            with pytest.raises(ModelChangedError, match=r"model\.gguf may have been written to"):
                files.check(since=checked)
        # It is what it was, for what is computed from now on.
        assert files.check(since=files.check()) == checked + 1


def test_the_bytes_that_were_identified_are_loaded_whatever_takes_their_name(
    path: Path, file: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_llama(path.with_name("other.gguf"), layers=3)
    by_descriptor = opened._DESCRIPTORS.is_dir()
    for known, names in ((by_descriptor, opened._DESCRIPTORS), (False, path / "none")):
        monkeypatch.setattr(opened, "_DESCRIPTORS", names)
        shutil.copy(path, path.with_name("copy"))
        with closing(OpenModel(resolve(path))) as files:
            os.replace(other, path)
            if known:
                model = load_model(files, repack=False)
                assert llama_cpp.llama_model_n_layer(model) == 2
                llama_cpp.llama_model_free(model)
            else:
                with pytest.raises(ModelChangedError, match="replaced or written to while it was"):
                    load_model(files, repack=False)
        os.replace(path, other)
        os.replace(path.with_name("copy"), path)


def test_a_file_that_was_replaced_since_it_was_identified_is_refused(
    path: Path, file: ModelFile
) -> None:
    before = descriptors()
    shutil.copy(path, path.with_name("new"))
    os.replace(path.with_name("new"), path)
    with pytest.raises(ModelChangedError, match=r"model\.gguf was replaced .* call again"):
        load_engine(file, PLAIN, path.parent)
    path.unlink()
    with pytest.raises(ModelChangedError, match=r"model\.gguf cannot be opened again"):
        load_engine(file, PLAIN, path.parent)
    assert descriptors() == before


def test_every_part_of_a_split_model_counts(tmp_path: Path) -> None:
    parts = parts_of(write_llama(tmp_path / "split.gguf", split_tensors=11))
    before = descriptors()
    engine = load_engine(resolve(parts[0]), PLAIN, tmp_path)
    engine.prepare(GenerateRequest.of("hi"))
    overwrite(parts[2])
    with pytest.raises(ModelChangedError, match="00003-of-00003"):
        engine.prepare(GenerateRequest.of("hi"))
    engine.close()
    assert descriptors() == before


def test_what_was_computed_meanwhile_is_dropped(path: Path, file: ModelFile) -> None:
    engine = load_engine(file, PLAIN, path.parent)
    worker = engine.open_worker()
    slot = worker.admit(engine.prepare(GenerateRequest.of("hi", max_new_tokens=8)))
    worker.step()
    worker.step()
    overwrite(path)
    events = [event for _ in range(10) for event in worker.step()]
    assert not any(isinstance(event, AnswerEvent) for event in events)
    last = events[-1]
    assert isinstance(last, ErrorEvent)
    assert last.slot == slot
    assert isinstance(last.error, ModelChangedError)
    worker.close()
    engine.close()


def test_a_file_is_looked_at_in_each_step(path: Path, file: ModelFile) -> None:
    """Written back and replaced later, it would look as if it had only been replaced."""
    engine = load_engine(file, PLAIN, path.parent)
    worker = engine.open_worker()
    worker.admit(engine.prepare(GenerateRequest.of("hi", max_new_tokens=20)))
    worker.step()
    overwrite_and_keep_the_time(path)
    (event,) = worker.step()
    assert isinstance(event, ErrorEvent)
    assert isinstance(event.error, ModelChangedError)
    worker.close()
    engine.close()


def test_an_error_of_llama_cpp_names_the_file(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data.replace(b"blk.1.attn_norm.weight", b"blk.9.attn_norm.weight"))
    with pytest.raises(ModelFormatError) as caught:
        load_engine(resolve(path), PLAIN, path.parent)
    assert str(path) in str(caught.value)
    assert "/proc/" not in str(caught.value)


def test_a_source_identifies_a_file_again_that_changes_while_it_is_loaded(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = LlamaSource(Settings(cache_dir=path.parent / "caches", probe=False))
    first = source.fingerprint("generation", str(path))
    changes = [1, 1]
    opening = OpenModel.__init__

    def open_after_a_change(self: OpenModel, file: ModelFile) -> None:
        if changes:
            changes.pop()
            append(path)
        opening(self, file)

    monkeypatch.setattr(OpenModel, "__init__", open_after_a_change)
    engine = source.load("generation", str(path))
    assert engine.fingerprint == source.fingerprint("generation", str(path)) != first
    engine.close()
    changes += [1, 1, 1]
    with pytest.raises(ModelChangedError):
        source.load("generation", str(path))
