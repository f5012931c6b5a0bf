"""Arguments in, exit code out: 0 done, 1 an expected failure, 2 wrong usage, 130 interrupted.

Data goes to standard output, everything else to standard error.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import asteady
from asteady._errors import AsteadyError
from asteady._requests import DEFAULT_MAX_NEW_TOKENS, DEFAULT_SEED


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        result: int = options.run(options)
        sys.stdout.flush()
    except AsteadyError as exc:
        print(f"asteady: {exc}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read our output has enough. Nothing more can be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as exc:
        print(f"asteady: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="asteady",
        description="Deterministic, cached text and embeddings from local language models.",
        epilog="Settings come from ASTEADY_* variables; see docs/configuration.md.",
    )
    parser.add_argument("--version", action="version", version=f"asteady {asteady.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_generate(commands)
    _add_embed(commands)
    _add_cache(commands)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="MODEL", help='"builtin" or the path of a .gguf file')
    parser.add_argument(
        "--cache",
        choices=("use", "refresh", "bypass", "only"),
        default="use",
        help="use it (default), compute anew and store, leave it alone, or never compute",
    )
    parser.add_argument("--json", action="store_true", help="print the whole answer as JSON")


def _add_generate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "generate",
        help="generate text",
        description="Generate text; it is printed as it is computed.",
    )
    parser.add_argument("prompt", nargs="?", help="the prompt; without one, or -, standard input")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="default: %(default)s")
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=DEFAULT_MAX_NEW_TOKENS,
        metavar="N",
        help="default: %(default)s",
    )
    parser.add_argument(
        "--temperature", type=float, default=0.0, metavar="T", help="default: 0, greedy"
    )
    parser.add_argument(
        "--stop",
        action="append",
        metavar="TEXT",
        help="end before this text; may be given more than once",
    )
    parser.add_argument("--raw", action="store_true", help="skip the model's chat template")
    parser.add_argument(
        "--no-stream", action="store_true", help="print the text when it is complete"
    )
    _add_common(parser)
    parser.set_defaults(run=_generate)


def _add_embed(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "embed",
        help="embed texts",
        description="Embed each text; one line of numbers for each.",
    )
    parser.add_argument(
        "text", nargs="*", help="the texts; without any, the lines of standard input"
    )
    parser.add_argument("--npy", metavar="FILE", help="write a float32 array (texts, dimensions)")
    parser.add_argument(
        "--truncate", action="store_true", help="cut text longer than the model's context"
    )
    _add_common(parser)
    parser.set_defaults(run=_embed)


def _add_cache(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "cache", help="look at the cache or clear it", description="Look at the cache or clear it."
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    stats = actions.add_parser("stats", help="print the statistics")
    stats.add_argument("--json", action="store_true", help="print them as JSON")
    stats.set_defaults(run=_cache_stats)
    clear = actions.add_parser("clear", help="remove all entries")
    clear.set_defaults(run=_cache_clear)
    path = actions.add_parser("path", help="print the directory")
    path.set_defaults(run=_cache_path)


# Each command lives in a module of its own, imported when it runs: `asteady --version` needs none.


def _generate(options: argparse.Namespace) -> int:
    from asteady.cli import _generate

    return _generate.run(options)


def _embed(options: argparse.Namespace) -> int:
    from asteady.cli import _embed

    return _embed.run(options)


def _cache_stats(options: argparse.Namespace) -> int:
    from asteady.cli import _cache

    return _cache.stats(options)


def _cache_clear(options: argparse.Namespace) -> int:
    from asteady.cli import _cache

    return _cache.clear()


def _cache_path(options: argparse.Namespace) -> int:
    from asteady.cli import _cache

    return _cache.path()
