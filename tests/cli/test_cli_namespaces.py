"""Namespaces on the command line, as processes of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_cli import run


def test_answers_are_held_listed_and_cleared_by_namespace(tmp_path: Path) -> None:
    few = ("--max-new-tokens", "3")
    assert "namespaces" not in run("cache", "stats").stdout
    run("generate", "hi", *few, "--namespace", "emails/marketing")
    run("generate", "hi", *few, "--namespace", "docs")
    run("embed", "hi", "--namespace", "emails")
    run("generate", "ho", *few)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('"hey"\n{"prompt": "hi", "namespace": "sales"}\n', "utf-8")
    warmed = run("warm", str(prompts), *few, "--namespace", "emails")
    assert warmed.stdout.startswith("warmed 1, already cached 1")

    lines = run("cache", "namespaces").stdout.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["namespace", "generation", "embedding"],
        ["docs", "1", "0"],
        ["emails", "1", "1"],
        ["emails/marketing", "1", "0"],
        ["emails/sales", "1", "0"],
    ]
    sizes = json.loads(run("cache", "namespaces", "docs", "--json").stdout)
    assert list(sizes) == ["docs"]
    assert sizes["docs"]["generation"]["entries"] == 1
    assert "namespaces: 4 (" in run("cache", "stats").stdout

    listed = json.loads(run("cache", "list", "--namespace", "emails", "--json").stdout)
    assert sorted(row["cache"] for row in listed) == ["embedding", "generation", "generation"]
    assert run("cache", "clear", "--namespace", "emails").stdout == "removed 2 entries\n"
    assert run("cache", "clear", "--namespace", "emails").stdout == "removed 0 entries\n"
    assert len(json.loads(run("cache", "list", "--json").stdout)) == 2
    assert run("generate", "hi", *few, "--cache", "only").returncode == 0


@pytest.mark.parametrize(
    "arguments", [("generate", "hi"), ("cache", "list"), ("cache", "clear"), ("warm", "-")]
)
def test_a_path_that_is_none_is_one_line(arguments: tuple[str, ...]) -> None:
    done = run(*arguments, "--namespace", "emails/", stdin="")
    assert done.returncode == 1
    assert "namespace='emails/' is not allowed" in done.stderr
    assert "Traceback" not in done.stderr
