from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import gguf
import pytest

from asteady._base.errors import ModelCapabilityError, ModelFormatError, ModelNotFoundError
from asteady._base.requests import Kind
from asteady._engine.loader import load_engine
from asteady._engine.models import minilm
from asteady._engine.models.gguf import read_header
from asteady._engine.models.resolve import ModelFile, resolve_model
from asteady._engine.plan import EngineOptions
from asteady.models.training.digests import write_digests
from tests.engine.driving import digest, generate
from tests.gguf_files import parts_of, write_bert, write_llama


def test_a_path_leads_to_a_file_with_its_digest_and_header(models: Path, tmp_path: Path) -> None:
    path = models / "gpt2.gguf"
    file = resolve_model(str(path), kind="generation", cache_dir=tmp_path)
    assert file.path == path
    assert file.reference == str(path)
    assert file.size_bytes == path.stat().st_size
    assert len(file.sha256) == 64
    assert file.header.kind == "generation"
    assert file.header.architecture == "llama"
    assert file.header.context_length == 1024
    assert file.header.has_chat_template
    assert file.header.matrix_types == ("Q8_0",)


def test_the_header_of_an_embedding_model_says_how_it_pools(models: Path) -> None:
    header = read_header(models / "bert.gguf")
    assert (header.kind, header.pooling, header.causal) == ("embedding", "mean", False)
    assert not header.has_chat_template


def test_a_path_may_begin_at_home(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(models))
    file = resolve_model("~/gpt2.gguf", kind="generation", cache_dir=tmp_path)
    assert file.path == models / "gpt2.gguf"


def test_a_file_is_read_once_until_it_changes(models: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(models / "gpt2.gguf", tmp_path / "model.gguf"))
    first = resolve_model(str(path), kind="generation", cache_dir=tmp_path)
    assert resolve_model(str(path), kind="generation", cache_dir=tmp_path) == first
    # What is remembered is believed, so neither the digest nor the header was read again.
    memory = tmp_path / "models.json"
    memory.write_text(memory.read_text().replace(first.sha256, "0" * 64))
    again = resolve_model(str(path), kind="generation", cache_dir=tmp_path)
    assert again.sha256 == "0" * 64
    with path.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x7f")
    os.utime(path, ns=(1, 1))
    changed = resolve_model(str(path), kind="generation", cache_dir=tmp_path)
    assert changed.sha256 not in (first.sha256, again.sha256)


def test_remembered_facts_are_readable_by_the_user_only(models: Path, tmp_path: Path) -> None:
    resolve_model(str(models / "gpt2.gguf"), kind="generation", cache_dir=tmp_path)
    assert stat.S_IMODE((tmp_path / "models.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("spoiled", ["null", '{"sha256": "short"}', '{"sha256": 7, "header": {}}'])
def test_invalid_remembered_facts_are_computed_again(
    models: Path, tmp_path: Path, spoiled: str
) -> None:
    path = str(models / "gpt2.gguf")
    first = resolve_model(path, kind="generation", cache_dir=tmp_path)
    memory = tmp_path / "models.json"
    entries = json.loads(memory.read_text())
    memory.write_text(json.dumps({key: json.loads(spoiled) for key in entries}))
    assert resolve_model(path, kind="generation", cache_dir=tmp_path) == first


def test_facts_that_an_older_version_remembered_are_computed_again(
    models: Path, tmp_path: Path
) -> None:
    path = str(models / "gpt2.gguf")
    first = resolve_model(path, kind="generation", cache_dir=tmp_path)
    memory = tmp_path / "models.json"
    entries = json.loads(memory.read_text())
    for facts in entries.values():
        facts["header"]["thinks"] = True
    memory.write_text(json.dumps(entries))
    assert resolve_model(path, kind="generation", cache_dir=tmp_path).header.thinks, "remembered"
    for facts in entries.values():
        del facts["header"]["thinks"]
        facts["header"]["context_length"] = 1
    memory.write_text(json.dumps(entries))
    assert resolve_model(path, kind="generation", cache_dir=tmp_path) == first


def test_a_missing_file_is_named_with_the_known_references(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"nowhere\.gguf.*builtin"):
        resolve_model(str(tmp_path / "nowhere.gguf"), kind="generation", cache_dir=tmp_path)


def test_a_directory_is_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="not a file"):
        resolve_model(str(tmp_path), kind="generation", cache_dir=tmp_path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "loop.gguf"
    path.symlink_to(path)
    with pytest.raises(ModelNotFoundError, match=r"loop\.gguf cannot be read"):
        resolve_model(str(path), kind="generation", cache_dir=tmp_path)


@pytest.fixture
def builtin_folder(tmp_path: Path, models: Path) -> Path:
    """A folder with two small models and their digests, in place of the package's."""
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(models / "gpt2.gguf", folder / "generate.gguf")
    shutil.copy(models / "bert.gguf", folder / "embed.gguf")
    write_digests(folder)
    return folder


def builtin(kind: Kind, cache_dir: Path, folder: Path) -> ModelFile:
    return resolve_model("builtin", kind=kind, cache_dir=cache_dir, builtin_folder=folder)


def test_the_shipped_models_have_the_digests_in_the_package(tmp_path: Path) -> None:
    resolve_model("builtin", kind="generation", cache_dir=tmp_path)
    resolve_model("builtin", kind="embedding", cache_dir=tmp_path)


def test_a_builtin_file_that_changed_is_refused(builtin_folder: Path, tmp_path: Path) -> None:
    builtin("generation", tmp_path, builtin_folder)
    with (builtin_folder / "generate.gguf").open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x7f")
    with pytest.raises(ModelFormatError, match=r"generate\.gguf.*expected.*reinstall"):
        builtin("generation", tmp_path, builtin_folder)


@pytest.mark.parametrize("sums", [None, "", "00 embed.gguf\n", "generate.gguf\n", "é"])
def test_a_package_without_the_digests_is_refused(
    builtin_folder: Path, tmp_path: Path, sums: str | None
) -> None:
    if sums is None:
        (builtin_folder / "SHA256SUMS").unlink()
    else:
        (builtin_folder / "SHA256SUMS").write_text(sums)
    with pytest.raises(ModelFormatError, match=r"SHA256SUMS.*reinstall"):
        builtin("generation", tmp_path, builtin_folder)


def test_builtin_names_a_file_for_each_kind(builtin_folder: Path, tmp_path: Path) -> None:
    generate = builtin("generation", tmp_path, builtin_folder)
    embed = builtin("embedding", tmp_path, builtin_folder)
    assert (generate.path.name, generate.reference) == ("generate.gguf", "builtin")
    assert (embed.path.name, embed.reference) == ("embed.gguf", "builtin")


def test_minilm_is_converted_and_only_embeds(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minilm, "convert_minilm", lambda _: models / "bert.gguf")
    file = resolve_model("minilm", kind="embedding", cache_dir=tmp_path)
    assert (file.path, file.reference) == (models / "bert.gguf", "minilm")
    with pytest.raises(ModelCapabilityError, match="generation_model"):
        resolve_model("minilm", kind="generation", cache_dir=tmp_path)


def test_a_model_of_the_other_kind_is_refused_with_a_remedy(models: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelCapabilityError, match=r"cannot embed.*embedding_model"):
        resolve_model(str(models / "gpt2.gguf"), kind="embedding", cache_dir=tmp_path)
    with pytest.raises(ModelCapabilityError, match=r"cannot generate.*generation_model"):
        resolve_model(str(models / "bert.gguf"), kind="generation", cache_dir=tmp_path)


@pytest.mark.parametrize("pooling", [None, gguf.PoolingType.NONE, gguf.PoolingType.RANK])
def test_a_model_that_does_not_pool_cannot_embed(
    tmp_path: Path, pooling: gguf.PoolingType | None
) -> None:
    path = write_bert(tmp_path / "model.gguf", pooling=pooling)
    with pytest.raises(ModelCapabilityError, match="pooling_type"):
        resolve_model(str(path), kind="embedding", cache_dir=tmp_path)


def test_a_split_model_is_one_model(tmp_path: Path) -> None:
    parts = parts_of(write_llama(tmp_path / "split.gguf", split_tensors=11))
    assert len(parts) == 3
    file = resolve_model(str(parts[0]), kind="generation", cache_dir=tmp_path)
    assert file.path == parts[0]
    assert file.size_bytes == sum(part.stat().st_size for part in parts)
    assert file.header.architecture == "llama"
    assert file.header.matrix_types == ("Q8_0",)
    # A change in a later part is another model.
    with parts[2].open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x7f")
    os.utime(parts[2], ns=(1, 1))
    other = resolve_model(str(parts[0]), kind="generation", cache_dir=tmp_path)
    assert other.sha256 != file.sha256


def test_a_split_model_computes_what_the_whole_one_does(tmp_path: Path) -> None:
    whole = write_llama(tmp_path / "whole.gguf")
    parts = parts_of(write_llama(tmp_path / "split.gguf", split_tensors=11))
    digests = []
    for path in (whole, parts[0]):
        file = resolve_model(str(path), kind="generation", cache_dir=tmp_path)
        engine = load_engine(file, EngineOptions(probe=False), tmp_path)
        digests.append(digest(generate(engine, "hello", max_new_tokens=8, logprobs=2)))
        engine.close()
    assert digests[0] == digests[1]


def test_a_split_model_needs_all_its_parts_and_is_named_by_the_first(tmp_path: Path) -> None:
    parts = parts_of(write_llama(tmp_path / "split.gguf", split_tensors=11))
    with pytest.raises(ModelFormatError, match=r"00002-of.*name the first one, .*00001-of"):
        resolve_model(str(parts[1]), kind="generation", cache_dir=tmp_path)
    parts[1].unlink()
    with pytest.raises(ModelNotFoundError, match="00002-of-00003"):
        resolve_model(str(parts[0]), kind="generation", cache_dir=tmp_path)


def test_what_is_no_path_of_a_file_is_refused_by_name(tmp_path: Path) -> None:
    for reference in ("/", "//", ".", str(tmp_path)):
        with pytest.raises(ModelFormatError, match="not a file"):
            resolve_model(reference, kind="generation", cache_dir=tmp_path)
    for reference, reason in [
        ("a\0b.gguf", "NUL"),
        ("\ud800.gguf", "surrogate"),
        ("~nosuchuser/x.gguf", "no home directory ~nosuchuser"),
    ]:
        with pytest.raises(ModelNotFoundError, match=reason) as caught:
            resolve_model(reference, kind="generation", cache_dir=tmp_path)
        str(caught.value).encode()


def test_a_file_whose_name_is_not_utf_8_computes(models: Path, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.gguf")
    try:
        shutil.copy(models / "gpt2.gguf", path)
    except OSError:  # pragma: no cover
        pytest.skip("this file system has names in UTF-8 only")
    file = resolve_model(str(path), kind="generation", cache_dir=tmp_path)
    assert resolve_model(str(path), kind="generation", cache_dir=tmp_path) == file
    assert file.reference == f"{tmp_path}/caf\\xe9.gguf"
    engine = load_engine(file, EngineOptions(probe=False), tmp_path)
    assert generate(engine, "hello", max_new_tokens=2).completion_tokens == 2
    engine.close()
    with pytest.raises(ModelNotFoundError, match=r"caf\\udce8\.gguf") as caught:
        resolve_model(
            str(path.with_name(os.fsdecode(b"caf\xe8.gguf"))),
            kind="generation",
            cache_dir=tmp_path,
        )
    str(caught.value).encode()
