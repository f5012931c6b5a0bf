"""``asteady generate``"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys

import attrs

from asteady._base.requests import OWN_END, Completion
from asteady._session.session import Session
from asteady.cli._common import (
    Commands,
    add_max_new_tokens,
    add_request,
    add_seed,
    calls_under,
    read_standard_input,
)


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "generate",
        help="generate text",
        description="Generate text and print it while it is computed.",
    )
    parser.add_argument("prompt", nargs="?", help="the prompt; default, or -: standard input")
    add_seed(parser)
    add_max_new_tokens(parser)
    parser.add_argument(
        "--temperature", type=float, default=0.0, metavar="T", help="default: 0, greedy"
    )
    parser.add_argument(
        "--stop",
        action="append",
        metavar="TEXT",
        help="stop before this text; may be given several times",
    )
    parser.add_argument(
        "--eos-string",
        default=OWN_END,
        metavar="TEXT",
        help="the same as --stop TEXT, for users of SteadyText; default: %(default)s, the model's"
        " own end",
    )
    parser.add_argument("--raw", action="store_true", help="skip the model's chat template")
    parser.add_argument(
        "--no-stream", action="store_true", help="print the text when it is complete"
    )
    add_request(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    if options.prompt in (None, "-"):
        options.prompt = read_standard_input("a prompt").removesuffix("\n")
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    async with Session(generation_model=options.model) as session:
        if session.settings.generation_model == "builtin":
            print(
                "asteady: the built-in model is only a small demonstration; choose another one with"
                " --model FILE.gguf or ASTEADY_GENERATION_MODEL",
                file=sys.stderr,
            )
        async with calls_under(session, options.namespace).stream(
            options.prompt,
            cache=options.cache,
            raw=options.raw,
            seed=options.seed,
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            stop=options.stop,
            eos_string=options.eos_string,
        ) as stream:
            if options.json or options.no_stream:
                answer = await stream.read()
                _write(_as_json(answer) if options.json else answer.text)
            else:
                async for chunk in stream:
                    _write(chunk)
                answer = stream.answer
        if options.json or not answer.text.endswith("\n"):
            _write("\n")
        if answer.finish_reason == "length" and not options.json:
            print(
                f"asteady: stopped after {answer.completion_tokens} tokens"
                " (--max-new-tokens, or the model's context)",
                file=sys.stderr,
            )
    return 0


def _write(text: str) -> None:
    # Always UTF-8: the encoding of the terminal may not have all characters.
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


def _as_json(answer: Completion) -> str:
    record = attrs.asdict(
        answer, value_serializer=lambda _, __, v: v.decode("latin-1") if isinstance(v, bytes) else v
    )
    return json.dumps(record, ensure_ascii=False)
