"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from typing import TypeAlias

from asteady.cli._namespaces import add_option

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="MODEL", help='"builtin", the path of a .gguf file, or hf:...'
    )
    parser.add_argument(
        "--cache",
        choices=("use", "refresh", "bypass", "only"),
        default="use",
        help="use it (default), compute anew and store, leave it alone, or never compute",
    )
    add_option(parser, 'have this namespace hold the answer, as "emails/marketing"')
    parser.add_argument("--json", action="store_true", help="print the whole answer as JSON")
