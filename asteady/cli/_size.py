"""``asteady cache size``"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

import attrs

from asteady._base.errors import InvalidRequestError
from asteady._base.settings import Settings

if TYPE_CHECKING:
    from asteady.cli._arguments import Commands


def add_action(actions: Commands) -> None:
    parser = actions.add_parser(
        "size",
        help="what other sizes of the cache would give",
        description="What every size of the cache would give, from the accesses that a"
        " CacheOptimizer recorded, or from a file.",
    )
    parser.add_argument(
        "--kind",
        choices=("generation", "embedding"),
        default="generation",
        help="which cache; default: %(default)s",
    )
    parser.add_argument(
        "--accesses",
        metavar="FILE",
        help="lines of key, bytes and seconds with tabs between, plain or gzipped",
    )
    parser.add_argument(
        "--target",
        type=float,
        default=0.95,
        metavar="SHARE",
        help="of the best possible; default: %(default)s",
    )
    parser.add_argument(
        "--by", choices=("seconds", "hits"), default="seconds", help="default: %(default)s"
    )
    parser.add_argument("--plot", metavar="FILE", help="draw it: .png, .svg, .pdf")
    parser.add_argument("--json", action="store_true", help="print the recommendation as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    # Imported here, so that other commands start without it.
    from asteady.operate._accesses import read_accesses
    from asteady.operate._plots import plot_sizing, sizing_table
    from asteady.operate._sizing import CacheOptimizer, state_path

    settings = Settings.from_environment()
    optimizer = CacheOptimizer(cache_type=options.kind, settings=settings)
    if options.accesses is not None:
        for access in read_accesses(options.accesses):
            optimizer.record(access)
    else:
        optimizer.load(state_path(settings, options.kind))
    found = optimizer.recommend(options.target, by=options.by)
    if not found.accesses:
        raise InvalidRequestError(
            f"no accesses to the {options.kind} cache were recorded: attach a CacheOptimizer in the"
            " program (docs/operate/sizing.md), or give --accesses FILE"
        )
    if options.plot is not None:
        plot_sizing(optimizer, found, options.plot)
    if options.json:
        print(json.dumps(attrs.asdict(found)))
    else:
        print(sizing_table(optimizer, found))
        print(found)
    return 0
