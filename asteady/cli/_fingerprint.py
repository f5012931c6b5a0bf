"""``asteady fingerprint``"""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

import attrs

from asteady._base.errors import ModelCapabilityError
from asteady._base.requests import KINDS
from asteady.cli._common import (
    DIFFERENT,
    NOT_COMPARED,
    Commands,
    activities_of,
    add_json,
    add_model,
    make_session,
    read_file,
    read_standard_input,
)
from asteady.cli._output import as_json
from asteady.cli._progress import add_quiet, progress

if TYPE_CHECKING:
    from asteady._base.requests import Kind
    from asteady._session.session import Session
    from asteady.operate._fingerprint import ModelFingerprint


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "fingerprint",
        help="show what answers depend on beside the request, or why two machines do not share",
        description=(
            "Print the fingerprint of a model on this machine, and all that it is made of: a"
            " machine finds the answers of another one in a shared cache if their fingerprints are"
            " equal. With --compare, print what differs between two machines and what follows. The"
            " exit code is then 0 if the fingerprints are equal, 1 if not, and 2 if they cannot be"
            " compared."
        ),
        examples=(
            "asteady fingerprint --model smollm2",
            "asteady fingerprint --json >other.json",
            "asteady fingerprint --compare other.json",
        ),
    )
    add_model(parser, context=False)
    parser.add_argument(
        "--kind",
        choices=KINDS,
        help="which model of the settings; default: that of the file of --compare, or generation",
    )
    parser.add_argument(
        "--compare",
        metavar="FILE",
        help="a file of what `asteady fingerprint --json` printed on the other machine; -: standard"
        " input",
    )
    add_json(parser)
    add_quiet(parser)
    parser.set_defaults(run=run, failure=NOT_COMPARED)


def run(options: argparse.Namespace) -> int:
    # Imported here, so that other commands start faster.
    from asteady.operate._fingerprint import FingerprintComparison, ModelFingerprint

    other = None
    if options.compare is not None:
        text = (
            read_standard_input("the other fingerprint")
            if options.compare == "-"
            else read_file("--compare", options.compare)
        )
        other = ModelFingerprint.from_json(text)
    here = asyncio.run(_fingerprint(options, other))
    if other is None:
        print(as_json(here.as_dict(), indent=2) if options.json else here)
        return 0
    found = FingerprintComparison.of(here, other)
    if options.json:
        record = {"same": found.same, "same_any_cpu": found.same_any_cpu, **attrs.asdict(found)}
        print(as_json(record, indent=2))
    else:
        print(found)
    return 0 if found.same else DIFFERENT


async def _fingerprint(
    options: argparse.Namespace, other: ModelFingerprint | None
) -> ModelFingerprint:
    # Without the cache: nothing is written, and no lock of another process is waited for.
    async with (
        make_session(disable_cache=True) as session,
        progress(options, activities_of(session), "looking at the model"),
    ):
        kind: Kind = options.kind or ("generation" if other is None else other.kind)
        try:
            return await _of(session, options, kind)
        except ModelCapabilityError:
            if options.model is None or options.kind is not None or other is not None:
                raise
            return await _of(session, options, "embedding")


async def fingerprints_of(options: argparse.Namespace) -> dict[Kind, str]:
    """The fingerprints of the model that `options` names, by kind; of the one in `options.kind`,
    or of all that it has.

    Raises:
        ModelError: it has none.
    """
    kinds: tuple[Kind, ...] = KINDS if options.kind is None else (options.kind,)
    found: dict[Kind, str] = {}
    error: ModelCapabilityError | None = None
    async with (
        make_session(disable_cache=True) as session,
        progress(options, activities_of(session), "looking at the model"),
    ):
        for kind in kinds:
            try:
                found[kind] = (await _of(session, options, kind)).fingerprint
            except ModelCapabilityError as exc:
                error = exc
    if not found and error is not None:
        raise error
    return found


async def _of(session: Session, options: argparse.Namespace, kind: Kind) -> ModelFingerprint:
    from asteady.operate._fingerprint import fingerprint

    return await fingerprint(session, kind=kind, model=options.model)
