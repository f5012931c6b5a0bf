"""``asteady models list|pull|path|check|probe|remove``"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from asteady._base.errors import (
    AsteadyError,
    EngineError,
    ModelError,
    ModelFormatError,
    ModelNotFoundError,
)
from asteady._base.requests import KINDS, Kind
from asteady._base.settings import NAMED_MODELS, Settings
from asteady._engine.models.catalogue import BUNDLED, KNOWN, Known
from asteady._engine.models.hub import (
    HubModel,
    cached_models,
    discard,
    find_model,
    forget,
    parse_reference,
    pull_model,
)
from asteady.cli._common import Commands, add_json, make_session
from asteady.cli._output import Column, print_path, print_styled, print_table
from asteady.cli._progress import add_quiet, progress

if TYPE_CHECKING:
    from asteady._engine.models.resolve import ModelFile


@attrs.frozen(kw_only=True)
class _Row:
    """A row of the list. `fingerprint` and `error` are None where they do not apply; `get` is the
    command for a model that is not on this machine, and `about` what it is for."""

    reference: str
    kind: str = ""
    architecture: str = ""
    context_tokens: int = 0
    size_bytes: int = 0
    licence: str = ""
    sha256: str = ""
    commit: str | None = None
    fingerprint: str | None = None
    path: str = ""
    error: str | None = None
    about: str = ""
    get: str | None = None


_ANY_MODEL = '"builtin", "smollm2", "minilm", the path of a .gguf file, or hf:...'


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "models",
        help="list, download, measure or remove models",
        description="List, download, measure or remove models.",
        examples=("asteady models list",),
        epilog="See docs/models.md for how models are named.",
    )
    actions = parser.add_commands("actions", "ACTION")
    list_ = actions.add_parser(
        "list",
        help="list the models on this machine, and how to get others",
        description="List the models on this machine with what is known of them, and those that"
        " have a name here with the command that gets them.",
        examples=("asteady models list --json",),
    )
    add_json(list_, "print everything known, as JSON")
    list_.set_defaults(run=list_models)
    pull_ = actions.add_parser(
        "pull",
        help="download a model from the hub, or update it",
        description="Download a model from Hugging Face's hub, or what has changed of it, compare"
        " its digest, and print its path.",
        examples=("asteady models pull hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M",),
    )
    pull_.add_argument(
        "model",
        metavar="MODEL",
        help="hf:owner/repo/file.gguf[@revision], hf:owner/repo:Q4_K_M, or minilm",
    )
    add_quiet(pull_)
    pull_.set_defaults(run=pull)
    path_ = actions.add_parser(
        "path",
        help="print the path of a model's file, without downloading it",
        description="Print the path of a model's file, without downloading it; of builtin those of"
        " both its models.",
        examples=("asteady models path smollm2",),
    )
    path_.add_argument("model", metavar="MODEL", help=_ANY_MODEL)
    path_.set_defaults(run=path)
    check_ = actions.add_parser(
        "check",
        help="load a model in a process of its own, and print what it is or why it cannot be used",
        description="Load a model in a process of its own and compute a token or a vector. Prints"
        " what the model is and exits with 0, or prints why it cannot be used and exits with 1.",
        examples=("asteady models check path/to/model.gguf",),
    )
    check_.add_argument("model", metavar="MODEL", help=_ANY_MODEL)
    add_json(check_)
    check_.set_defaults(run=check)
    probe_ = actions.add_parser(
        "probe",
        help="measure how many requests a worker decodes in one batch without changing a bit",
        description="Measure how many requests a worker can decode in one batch without changing a"
        " bit of their answers, and how long a step of each width takes. The result is remembered.",
        examples=("asteady models probe smollm2",),
    )
    probe_.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help=f"{_ANY_MODEL}; default: the generation model",
    )
    add_json(probe_, "print everything known, as JSON")
    add_quiet(probe_)
    probe_.set_defaults(run=probe)
    remove_ = actions.add_parser(
        "remove",
        help="remove a model from the hub's cache",
        description="Remove a model's files from the cache directory of Hugging Face's hub.",
        examples=("asteady models remove hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M",),
    )
    remove_.add_argument(
        "model",
        metavar="MODEL",
        help="hf:owner/repo/file.gguf[@revision] or hf:owner/repo:Q4_K_M",
    )
    remove_.set_defaults(run=remove)


def list_models(options: argparse.Namespace) -> int:
    # Imported here and below, so that other commands start faster.
    from asteady._engine.loader import LlamaSource
    from asteady._engine.models.resolve import inspect_model

    settings = Settings.from_environment()
    source = LlamaSource(settings)
    rows = []
    for kind in KINDS:
        file = inspect_model("builtin", kind=kind, cache_dir=settings.cache_dir)
        fingerprint = source.fingerprint(kind, "builtin")
        rows.append(_row(file, fingerprint=fingerprint, about="a demonstration, for examples"))
    here = [known for known in KNOWN if _is_here(known, settings.cache_dir)]
    for known in here:
        if known.reference not in NAMED_MODELS:
            continue  # below, with all others of the hub's cache
        try:
            file = inspect_model(known.reference, kind=known.kind, cache_dir=settings.cache_dir)
            fingerprint = source.fingerprint(known.kind, known.reference)
            rows.append(_row(file, fingerprint=fingerprint, about=known.about))
        except ModelError as exc:
            rows.append(_Row(reference=known.reference, about=known.about, error=str(exc)))
    for model in cached_models():
        try:
            file = inspect_model(model.reference, kind="generation", cache_dir=settings.cache_dir)
            rows.append(_row(file, commit=model.commit))
        except ModelError as exc:
            rows.append(_Row(reference=model.reference, commit=model.commit, error=str(exc)))
    missing = [
        _Row(
            reference=known.reference,
            kind=known.kind,
            size_bytes=known.megabytes * 10**6,
            licence=known.licence,
            about=known.about,
            get=known.command,
        )
        for known in KNOWN
        if known not in here
    ]
    if options.json:
        print(json.dumps([attrs.asdict(row) for row in (*rows, *missing)], indent=2))
        return 0
    _print_models(rows)
    if missing:
        print("\nNot on this machine:\n")
        _print_missing(missing)
    return 0


def _is_here(known: Known, cache_dir: Path) -> bool:
    if known.reference in BUNDLED:
        return BUNDLED[known.reference].find() is not None
    if known.reference == "minilm":
        from asteady._engine.models.minilm import find_minilm

        return find_minilm(cache_dir) is not None
    return find_model(parse_reference(known.reference), cache_dir) is not None


def _kind(reference: str) -> Kind:
    """The kind to ask for: minilm is refused as another, and the others are not."""
    return "embedding" if reference == "minilm" else "generation"


def pull(options: argparse.Namespace) -> int:
    if options.model == "builtin":
        raise ModelError(
            "builtin is in asteady's own package; what is downloaded is named"
            " hf:owner/repo/file.gguf, hf:owner/repo:Q4_K_M or minilm"
        )
    cache_dir = Settings.from_environment().cache_dir
    print_path(asyncio.run(_pull(options, cache_dir)))
    return 0


async def _pull(options: argparse.Namespace, cache_dir: Path) -> Path:
    from asteady._base.activity import Activities
    from asteady._base.tasks import run_in_daemon
    from asteady._engine.models.resolve import inspect_model

    activities = Activities()
    stopped = threading.Event()

    def fetch() -> Path:
        if options.model not in NAMED_MODELS:
            with activities.during("downloading", options.model) as running:
                pull_model(options.model, cache_dir, running=running, stopped=stopped.is_set)
        # Compares the digest with the expected one and reads the header; converts minilm.
        return inspect_model(
            options.model, kind=_kind(options.model), cache_dir=cache_dir, activities=activities
        ).path

    async with progress(options, activities.now, "looking at the model"):
        try:
            # A thread, as a download that does not go on would not be left with Ctrl-C.
            return await run_in_daemon("asteady-pull", fetch)
        finally:
            stopped.set()


def path(options: argparse.Namespace) -> int:
    from asteady._engine.models.resolve import inspect_model

    cache_dir = Settings.from_environment().cache_dir
    reference = options.model
    if reference.startswith("hf:"):
        print_path(_local(reference, cache_dir).files[0])
        return 0
    kinds = KINDS if reference == "builtin" else KINDS[1:]
    for kind in kinds:
        print_path(inspect_model(reference, kind=kind, cache_dir=cache_dir).path)
    return 0


@attrs.frozen(kw_only=True)
class _Checked:
    """What a model is that was loaded and has computed."""

    path: str
    kind: str
    architecture: str
    name: str
    parameters: int
    quantisation: tuple[str, ...]
    context_tokens: int
    chat_template: bool
    size_bytes: int
    licence: str
    sha256: str


def check(options: argparse.Namespace) -> int:
    program = "from asteady.cli._models import check_here; check_here()"
    done = subprocess.run(
        [sys.executable, "-c", program, options.model],
        capture_output=True,
        check=False,
        env={**os.environ, "GGML_NO_BACKTRACE": "1"},
    )
    said = done.stderr.decode(errors="replace").strip()
    if done.returncode < 0:
        killer = signal.Signals(-done.returncode).name
        if killer == "SIGILL":
            from asteady._engine.build import REBUILD

            raise EngineError(
                "llama.cpp uses instructions that this CPU does not have (SIGILL), as it was built"
                f" for another one; compile it for this machine: {REBUILD}"
            )
        last = said.splitlines()[-1] if said else "it said nothing"
        raise ModelFormatError(f"{options.model} ends llama.cpp's process ({killer}): {last}")
    if done.returncode:
        raise ModelError(said)
    # On the last line: llama.cpp may have printed before.
    facts = json.loads(done.stdout.splitlines()[-1])
    if options.json:
        print(json.dumps(facts, indent=2))
    else:
        for name, value in facts.items():
            shown = ", ".join(value) if isinstance(value, list) else _shown(value)
            print(f"{name.replace('_', ' '):<16} {shown}")
    return 0


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value) or "-"


def check_here() -> None:
    """In the process of its own: the model's reference as an argument, its facts as JSON."""
    from asteady._engine.models.resolve import inspect_model

    reference = sys.argv[1]
    try:
        settings = Settings.from_environment(disable_cache=True, probe=False, workers=1)
        file = inspect_model(reference, kind=_kind(reference), cache_dir=settings.cache_dir)
        asyncio.run(_compute(settings, reference, file.header.kind))
    except AsteadyError as exc:
        sys.exit(str(exc))
    header = file.header
    facts = _Checked(
        path=os.fsencode(file.path).decode("utf-8", "backslashreplace"),
        kind=header.kind,
        architecture=header.architecture,
        name=header.name,
        parameters=header.parameters,
        quantisation=header.matrix_types,
        context_tokens=header.context_length,
        chat_template=header.has_chat_template,
        size_bytes=file.size_bytes,
        licence=header.licence,
        sha256=file.sha256,
    )
    print("\n" + json.dumps(attrs.asdict(facts)))


async def _compute(settings: Settings, reference: str, kind: Kind) -> None:
    async with make_session(settings) as session:
        if kind == "generation":
            await session.generate("Hello", model=reference, max_new_tokens=1)
        else:
            await session.embed("Hello", model=reference)


def probe(options: argparse.Namespace) -> int:
    from asteady._base.activity import Activities
    from asteady._base.tasks import run_in_daemon
    from asteady._engine.loader import build_of, probe_report
    from asteady._engine.models.resolve import resolve_model
    from asteady._engine.plan import EngineOptions, WidthReport, repacks

    settings = Settings.from_environment()
    reference = options.model or settings.generation_model
    engine_options = EngineOptions.of(settings)
    activities = Activities()

    def measure() -> tuple[ModelFile, WidthReport]:
        cache_dir = settings.cache_dir
        file = resolve_model(
            reference, kind="generation", cache_dir=cache_dir, activities=activities
        )
        return file, probe_report(file, engine_options, cache_dir, activities)

    async def show_measuring() -> tuple[ModelFile, WidthReport]:
        async with progress(options, activities.now, "measuring"):
            return await run_in_daemon("asteady-probe", measure)

    file, report = asyncio.run(show_measuring())
    system = build_of(settings.cache_dir)["system"]
    layout = "repacked" if repacks(file.header.matrix_types, system, engine_options) else "plain"
    if options.json:
        facts = {"width": report.width, "weights": layout, **attrs.asdict(report)}
        print(json.dumps(facts, indent=2))
        return 0
    if report.widths:
        print_table(
            [
                Column(title=title, right=True)
                for title in ("width", "same bits", "ms a step", "ms a token")
            ],
            [
                (
                    result.width,
                    "yes" if result.equal else "no",
                    f"{result.step_s * 1000:.2f}",
                    f"{result.step_s * 1000 / result.width:.2f}",
                )
                for result in report.widths
            ],
        )
    why = f": {report.reason}" if report.reason else f" (probed in {report.took_s:.2f} s)"
    print(f"{reference}: width {report.width}, {layout} weights{why}")
    return 0


def remove(options: argparse.Namespace) -> int:
    cache_dir = Settings.from_environment().cache_dir
    if options.model in BUNDLED:
        raise ModelError(
            f"{options.model} is not in the hub's cache but in a package: python -m pip uninstall "
            f"{BUNDLED[options.model].distribution}"
        )
    if not options.model.startswith("hf:"):
        raise ModelError(
            f"{options.model} is not in the hub's cache, and only models from there are removed:"
            " hf:owner/repo/file.gguf or hf:owner/repo:Q4_K_M"
        )
    model = _local(options.model, cache_dir)
    freed_bytes = sum(discard(file) for file in model.files)
    forget(parse_reference(options.model), cache_dir)
    print(f"removed {options.model}, {freed_bytes:,} bytes")
    return 0


def _local(text: str, cache_dir: Path) -> HubModel:
    """The downloaded model with this hub reference."""
    model = find_model(parse_reference(text), cache_dir)
    if model is None:
        raise ModelNotFoundError(f"{text} is not downloaded; run: asteady models pull {text}")
    return model


def _row(
    file: ModelFile, *, commit: str | None = None, fingerprint: str | None = None, about: str = ""
) -> _Row:
    return _Row(
        reference=file.reference,
        kind=file.header.kind,
        architecture=file.header.architecture,
        context_tokens=file.header.context_length,
        size_bytes=file.size_bytes,
        licence=file.header.licence,
        sha256=file.sha256,
        commit=commit,
        fingerprint=fingerprint,
        path=str(file.path),
        about=about,
    )


def _print_models(rows: list[_Row]) -> None:
    columns = (
        Column(title="MODEL"),
        Column(title="KIND", spare=4),
        Column(title="ARCHITECTURE", spare=6),
        Column(title="CONTEXT", right=True, spare=3),
        Column(title="MB", right=True),
        Column(title="LICENCE", spare=5),
        Column(title="COMMIT", spare=7),
        Column(title="FINGERPRINT", spare=8),
        Column(title="ABOUT", wraps=True),
    )
    lines = [
        (
            row.reference,
            row.kind or "unusable",
            row.architecture or "-",
            f"{row.context_tokens:,}" if row.context_tokens else "-",
            f"{row.size_bytes / 1e6:,.1f}" if row.size_bytes else "-",
            row.licence or "-",
            (row.commit or "-")[:12],
            (row.fingerprint or "-")[:12],
            row.error or row.about,
        )
        for row in rows
    ]
    print_table(columns, lines)


def _print_missing(rows: list[_Row]) -> None:
    if sys.stdout.isatty():
        # A table would be too wide for the commands, which are there to be copied.
        for row in rows:
            print_styled(row.reference, "bold")
            print_styled(f"  {row.size_bytes / 1e6:,.0f} MB, {row.licence}: {row.about}", "dim")
            print_styled(f"  {row.get}")
        return
    print_table(
        (
            Column(title="MODEL"),
            Column(title="ABOUT"),
            Column(title="MB", right=True),
            Column(title="LICENCE"),
            Column(title="TO GET IT"),
        ),
        [
            (row.reference, row.about, f"{row.size_bytes / 1e6:,.0f}", row.licence, row.get)
            for row in rows
        ],
    )
