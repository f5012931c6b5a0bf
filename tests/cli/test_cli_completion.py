"""``asteady completion``: the scripts, in the real shells, complete what the parser has."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from asteady.cli import main
from asteady.cli._completion import complete_file, complete_model

pytest.importorskip("argcomplete")

CASES = [
    ("asteady gene", {"generate"}),
    ("asteady cache st", {"stats"}),
    ("asteady cache stats --w", {"--watch"}),
    ("asteady generate --cache re", {"refresh"}),
    ("asteady completion f", {"fish"}),
    ("asteady generate --model smol", {"smollm2"}),
    ("asteady models pull min", {"minilm"}),
    ("asteady verify builti", {"builtin"}),
    ("asteady generate --model ./my", {"./my-model.gguf"}),
    ("asteady warm prom", {"prompts.jsonl"}),
    ("asteady embed --npy fold", {"folder/"}),
    ("asteady generate --schema folder/", {"folder/schema.json"}),
    ("asteady generate --seed ", set()),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with some files, and the command `asteady` on the path."""
    bin_folder, folder = tmp_path / "bin", tmp_path / "here"
    (folder / "folder").mkdir(parents=True)
    bin_folder.mkdir()
    for name in ("my-model.gguf", "my-text", "prompts.jsonl", "folder/schema.json"):
        (folder / name).touch()
    script = bin_folder / "asteady"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m asteady "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}{os.pathsep}{os.environ['PATH']}")
    # A module of this name in the folder could not stand in for the tree that is tested.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.chdir(folder)
    return folder


def shell(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def needs(name: str) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")


@pytest.mark.usefixtures("folder")
def test_in_bash() -> None:
    needs("bash")
    tries = "\n".join(f"try '{line}'" for line, _ in CASES)
    program = f"""
        eval "$(asteady completion bash)"
        try() {{
            COMP_LINE=$1 COMP_POINT=${{#1}} COMP_TYPE=9 COMPREPLY=()
            read -r -a COMP_WORDS <<< "$1"
            _python_argcomplete asteady 2>/dev/null
            printf '%s|' "${{COMPREPLY[@]}}"; echo
        }}
        complete -p asteady >&2
        {tries}
    """
    rows = shell("bash", "--norc", "-c", program).splitlines()
    for (line, expected), row in zip(CASES, rows, strict=True):
        found = {each.strip() for each in row.split("|")} - {""}
        if line.endswith("--seed "):
            assert found == set()
        else:
            assert found == expected, line


@pytest.mark.usefixtures("folder")
def test_in_bash_a_reference_with_a_colon_is_completed_from_where_bash_cuts_it() -> None:
    needs("bash")
    program = r"""
        eval "$(asteady completion bash)"
        COMP_LINE='asteady generate --model hf:nomic' COMP_POINT=33 COMP_TYPE=9
        _python_argcomplete asteady 2>/dev/null
        printf '%s\n' "${COMPREPLY[@]}"
    """
    assert shell("bash", "--norc", "-c", program).strip() == (
        "nomic-ai/nomic-embed-text-v1.5-GGUF:Q8_0"
    )


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("line", "expected"), CASES[:6] + CASES[8:10])
def test_in_fish(line: str, expected: set[str]) -> None:
    needs("fish")
    program = f"asteady completion fish | source; complete -C '{line}'"
    found = {row.split("\t")[0] for row in shell("fish", "-N", "-c", program).splitlines()}
    assert found == expected


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("line", "expected"), [CASES[0], CASES[3], CASES[5], CASES[9]])
def test_in_zsh(line: str, expected: set[str]) -> None:
    needs("zsh")
    pty = pytest.importorskip("pty")
    # Its completion works in an interactive shell only: one key completes, another prints the line.
    screen, terminal = pty.openpty()
    setup = (
        'PS1=; autoload -Uz compinit; compinit -u -D; eval "$(asteady completion zsh)";'
        " show() { print -r -- GOT:$BUFFER:END }; zle -N show; bindkey '^X' show; print ST''ART"
    )
    said = b""

    def between(start: bytes, end: bytes) -> bytes:
        nonlocal said
        while start not in said or end not in said.split(start, 1)[1]:
            assert select.select([screen], [], [], 120)[0], said
            said += os.read(screen, 4096)
        found, said = said.split(start, 1)[1].split(end, 1)
        return found

    with subprocess.Popen(
        ["zsh", "-f", "-i"],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm"},
    ) as process:
        os.close(terminal)
        try:
            os.write(screen, setup.encode() + b"\n")
            between(b"STAR", b"T")
            os.write(screen, line.encode() + b"\t\x18")
            words = between(b"GOT:", b":END").decode().split()
        finally:
            process.kill()
            os.close(screen)
    assert {words[-1]} == expected


def test_it_is_fast_as_it_imports_neither_llama_cpp_nor_the_session() -> None:
    program = """
import os, sys
os.environ |= {"_ARGCOMPLETE": "1", "COMP_LINE": "asteady generate --model ", "COMP_POINT": "25"}
os._exit = lambda code: sys.exit(code)
from asteady.cli import main
try:
    main(["asteady"])
finally:
    slow = {"llama_cpp", "numpy", "asteady._session.session", "asteady._engine.loader", "rich"}
    print(sorted(slow & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "_ARGCOMPLETE_STDOUT_FILENAME": os.devnull},
        check=False,
    )
    assert done.stdout == "[]\n", done.stderr


def test_without_argcomplete_the_remedy_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "argcomplete.shell_integration", None)
    assert main(["completion", "bash"]) == 1
    assert 'pip install "asteady[cli]"' in capsys.readouterr().err


def test_models_come_before_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(folder / "hub"))
    names = complete_model("")
    assert names[0] == "builtin"
    assert {"minilm", "smollm2", "my-model.gguf"} <= set(names)
    assert "folder/" not in names
    assert complete_model("fo") == ["folder/"]
    assert "hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M" in complete_model("hf:Q")


def test_files_are_completed_below_the_home_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    (folder / ".hidden").touch()
    assert complete_file("~/my-m") == ["~/my-model.gguf"]
    assert ".hidden" not in complete_file("")
    assert complete_file(".hid") == [".hidden"]
    assert complete_file("no/such/") == []
