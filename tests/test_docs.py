"""The documentation: every snippet runs, every link leads somewhere, every public name is in the
reference, and every plot is drawn from the figures.

A fenced block names its language. Those of Python and of a shell are run, unless a comment above
one says why not (``<!-- not run: asks the network -->``), which readers do not see.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from markdown_it import MarkdownIt

import asteady
import asteady.blocking
import asteady.operate
import asteady.operate.dask
import asteady.server
import asteady.steadytext
import asteady.testing
from tests.benchmarks import plots
from tests.published import smollm2_file
from tests.serving import reserved_port

pytestmark = pytest.mark.usefixtures("unmeasured")

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
TUTORIAL = sorted((DOCS / "tutorial").glob("[0-9]*.md"))
# What is in these is no program.
DATA = {"text", "json", "toml", "yaml", "ini", "html", "nginx", "dockerfile"}


class Block(NamedTuple):
    language: str
    code: str
    comment: str
    """The comment above it."""


def blocks(page: Path) -> Iterator[Block]:
    comment = ""
    for token in MarkdownIt("commonmark").parse(page.read_text("utf-8")):
        if token.type == "html_block":
            found = re.fullmatch(r"<!-- (.*) -->\s*", token.content)
            comment = found[1] if found else ""
        elif token.type in ("fence", "code_block"):
            yield Block(token.info, token.content, comment)
        if token.type != "html_block":
            comment = ""


def snippets(language: str) -> list[tuple[str, str]]:
    """The blocks to be run, one after the other in a shell, each with its name."""
    return [
        (f"{page.relative_to(ROOT)}-{number}", block.code)
        for page in PAGES
        if page not in TUTORIAL
        for number, block in enumerate(b for b in blocks(page) if b.language == language)
        if not block.comment.startswith("not run: ")
    ]


PROGRAMS, COMMANDS = snippets("python"), snippets("sh")


def environment(directory: Path) -> dict[str, str]:
    """For programs that run in another directory than this one's root."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "MPLCONFIGDIR": str(directory)}


@pytest.mark.parametrize(("name", "program"), PROGRAMS, ids=[name for name, _ in PROGRAMS])
def test_a_program_in_the_documentation_runs(name: str, program: str, tmp_path: Path) -> None:
    if "import asteady" not in program:
        program = f"import asteady\n{program}"
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", program],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


# Files that commands read. What they install is installed where the tests run.
PREPARED = {
    "prompts.jsonl": '"Write a haiku about rain"\n',
    "talk.json": '[{"role": "user", "content": "Write a haiku"}]',
    "accesses.tsv": "a\t100\t1.0\nb\t200\t2.0\na\t100\t1.0\n",
    "tools.json": json.dumps(
        [{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}]
    ),
}
# Programs of the same pages that have to run before.
BEFORE = {"docs/operate/sizing.md-0": "docs/operate/sizing.md-0"}
PREAMBLE = f"""
asteady() {{ "{sys.executable}" -m asteady "$@"; }}
python() {{ [ "$1 $2" = "-m pip" ] || "{sys.executable}" "$@"; }}
pip() {{ :; }}
"""


def sh(commands: str, directory: Path) -> str:
    done = subprocess.run(
        ["sh", "-ec", PREAMBLE + commands],
        cwd=directory,
        env=environment(directory),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="the commands are for a POSIX shell")
@pytest.mark.parametrize(("name", "commands"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_commands_in_the_documentation_run(name: str, commands: str, tmp_path: Path) -> None:
    if "smollm2" in commands:
        smollm2_file()
    for file, text in PREPARED.items():
        (tmp_path / file).write_text(text)
    if "model.gguf" in commands:
        shutil.copy(ROOT / "asteady/models/generate.gguf", tmp_path / "model.gguf")
    if name in BEFORE:
        test_a_program_in_the_documentation_runs(name, dict(PROGRAMS)[BEFORE[name]], tmp_path)
    sh(commands, tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="the commands are for a POSIX shell")
def test_the_tutorial_runs_from_its_first_step_to_its_last(tmp_path: Path) -> None:
    smollm2_file()
    served, commands, printed = 0, "", ""
    for page in TUTORIAL:
        for block in blocks(page):
            what, _, name = block.comment.partition(": ")
            if what == "file":
                (tmp_path / name).write_text(block.code)
            elif what == "serve":
                commands = block.code
            elif what == "client":
                served += 1
                with reserved_port() as port:
                    replies = talk_to_server(commands, block.code, port, tmp_path)
                assert '"cached":true' in replies
            elif what == "prints":
                assert block.code in printed
            elif block.language == "sh":
                printed = sh(block.code, tmp_path)
            else:
                assert block.language in DATA, f"{page.name}: no file for {block.code}"
    assert served == 1
    assert {file.name for file in tmp_path.glob("*.py")} >= {"ask.py", "app.py", "test_app.py"}


def talk_to_server(serve: str, ask: str, port: int, directory: Path) -> str:
    """Run a server by its last command, and a client's commands against it, with another port."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    command = serve.strip().splitlines()[-1].split()
    with subprocess.Popen(
        [sys.executable, "-m", *command, "--host", "127.0.0.1", "--port", str(port)],
        cwd=directory,
        env=environment(directory),
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stderr is not None
            log = []
            for line in server.stderr:
                log.append(line)
                if "running on" in line:
                    break
            else:
                pytest.fail("".join(log))
            return sh(ask.replace("localhost:8000", f"127.0.0.1:{port}"), directory)
        finally:
            server.terminate()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_names_its_language(page: Path) -> None:
    for block in blocks(page):
        if page.name != "README.md":  # its indented commands have a test of their own
            assert block.language, f"a block without a language: {block.code}"
        assert block.language in {"python", "sh", "", *DATA}, block.language


def test_links_in_the_documentation_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_public_name_is_in_the_reference() -> None:
    documented = set()
    for page in (DOCS / "reference").glob("*.rst"):
        text = page.read_text("utf-8")
        module = re.search(r"(?:currentmodule|py:module):: (\S+)", text)
        for name in re.findall(r"^\.\. automodule:: (\S+)\n +:members:", text, re.M):
            documented |= {f"{name}.{member}" for member in importlib.import_module(name).__all__}
        for name in re.findall(r"^\.\. (?:data|auto(?!module)\w+):: (\S+)", text, re.M):
            assert module is not None
            documented.add(f"{module[1]}.{name}")
        if "also exported here" in text or page.stem == "steadytext":
            assert module is not None
            for name in re.findall(r":py:obj:`asteady\.(?:\w+\.)?(\w+)`", text):
                documented.add(f"{module[1]}.{name}")
    public = {
        f"{module.__name__}.{name}"
        for module in (
            asteady,
            asteady.blocking,
            asteady.operate,
            asteady.operate.dask,
            asteady.server,
            asteady.steadytext,
            asteady.testing,
        )
        for name in module.__all__
    }
    assert public <= documented
    assert documented <= public


def test_the_description_on_pypi_has_no_relative_links() -> None:
    pytest.importorskip("hatchling", reason="hatchling builds the metadata")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "metadata"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    metadata = json.loads(done.stdout)
    readme = (ROOT / "README.md").read_text("utf-8")
    targets = re.findall(r"\]\(([^)]+)\)", metadata["readme"]["text"])
    assert len(targets) == len(re.findall(r"\]\(([^)]+)\)", readme)) > 5
    for target in targets:
        assert target.startswith("https://"), target
    repository = metadata["urls"]["Repository"]
    assert set(metadata["urls"]) >= {"Homepage", "Documentation", "Changelog", "Issues"}
    assert all(url.startswith(repository) for url in metadata["urls"].values())


def test_the_plots_are_drawn_from_the_figures_and_the_pages_have_the_same_figures() -> None:
    shown = "".join(page.read_text("utf-8") for page in DOCS.glob("*.md"))
    for name, text in plots.drawn().items():
        assert (DOCS / "plots" / name).read_text("utf-8") == text, f"nox -s bench -- plots: {name}"
        assert f"](plots/{name})" in shown
    for table in json.loads((DOCS / "plots" / "figures.json").read_text("utf-8")):
        text = (DOCS / table.get("page", "performance.md")).read_text("utf-8")
        section = re.split(rf"^#+ {table['title']}\n", text, flags=re.M)[1].split("\n##", 1)[0]
        for row in table["rows"]:
            for cell in row[1:]:
                assert re.search(rf"(?<![\d.]){re.escape(cell)}(?![\d.])", section), (row, cell)


def test_a_benchmark_writes_figures_that_can_be_drawn(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "tests.benchmarks", "blocking", "--figures", str(file)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (table,) = json.loads(file.read_text("utf-8"))
    plot = plots.Plot(name="blocking", table=table["title"], columns={"µs, least": "µs"})
    drawn = plots.svg(plot, table)
    assert all(row[0] in drawn and row[2] in drawn for row in table["rows"])
