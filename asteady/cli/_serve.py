"""``asteady serve``"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asteady._base.errors import SettingsError
from asteady._base.settings import MEBIBYTE, REMOTE_PREFIX, Settings
from asteady._base.validation import needs
from asteady.cli._common import Commands, activities_of, make_session
from asteady.cli._progress import add_quiet, progress

if TYPE_CHECKING:
    from asteady._base.requests import Kind
    from asteady.server._process.app import Served
    from asteady.server._process.listening import Listener

_HOST, _PORT = "127.0.0.1", 8080


def add_parser(commands: Commands) -> None:
    parser = commands.add_parser(
        "serve",
        help="answer OpenAI's clients over HTTP",
        description="Answer OpenAI's clients over HTTP, with a page of statistics at /dashboard,"
        " /health, and /metrics for Prometheus. Ctrl-C or SIGTERM ends it when what is in progress"
        " is answered; a second one ends it at once. See docs/serve.md.",
        examples=(
            "asteady serve --model smollm2 --port 8080",
            "asteady serve --host 0.0.0.0 --api-key-file keys.txt",
            "asteady serve --unix-socket /run/asteady.sock",
        ),
    )
    _add_addresses(parser)
    _add_models(parser)
    _add_access(parser)
    _add_limits(parser)
    add_quiet(parser)
    parser.set_defaults(run=run_serve)


def _add_addresses(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("addresses")
    group.add_argument(
        "--host",
        metavar="ADDRESS",
        help=f"where to listen; default: {_HOST}, which only this machine reaches",
    )
    group.add_argument(
        "--port", type=_port, metavar="N", help=f"the port; default: {_PORT}; 0: any that is free"
    )
    group.add_argument(
        "--unix-socket",
        "--uds",
        action="append",
        default=[],
        metavar="PATH",
        help="listen on this unix socket; may be repeated. Without --host and --port on nothing"
        " else",
    )


def _add_models(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("models")
    group.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="MODEL",
        help='"builtin", "smollm2", the path of a .gguf file, hf:... or openai+http://...; with'
        " NAME=MODEL clients call it NAME. May be repeated: the first one answers those who name"
        " none. Default: ASTEADY_GENERATION_MODEL",
    )
    group.add_argument(
        "--embedding-model",
        metavar="MODEL",
        help="the model for vectors; default: ASTEADY_EMBEDDING_MODEL",
    )
    group.add_argument(
        "--context",
        type=int,
        metavar="N",
        help="the most tokens of prompt and answer together; default: what the model was trained"
        " on",
    )
    group.add_argument(
        "--preload",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="load the models at the start, not when they are asked first; default: at the start",
    )


def _add_access(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("access")
    group.add_argument(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help="a key that clients have to give; may be repeated. The list of processes shows it to"
        " all users of the machine, so ASTEADY_API_KEY or a file is better",
    )
    group.add_argument(
        "--api-key-file",
        action="append",
        default=[],
        metavar="FILE",
        help="a file of keys, one a line; may be repeated",
    )
    group.add_argument(
        "--insecure",
        action="store_true",
        help="allow an address that other machines reach without a key: everybody there may ask",
    )
    group.add_argument(
        "--allowed-host",
        type=_host_name,
        action="append",
        default=[],
        metavar="NAME",
        help="a further name of this server in requests without a key, as a proxy sends it; may be"
        " repeated",
    )
    group.add_argument(
        "--cors-origin",
        type=_origin,
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let pages of this site ask from a browser, as https://example.com, or *; may be"
        " repeated",
    )
    group.add_argument(
        "--dashboard",
        action=argparse.BooleanOptionalAction,
        help="serve the page of statistics; default: only if no other machine reaches the server",
    )
    group.add_argument(
        "--show-prompts", action="store_true", help="show the texts of prompts on the dashboard"
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    for name, kind, default, what in (
        ("--max-body-mb", _above_0, 8, "the most megabytes of a request"),
        ("--max-messages", _count, 1024, "the most messages of a conversation"),
        (
            "--max-streams",
            _count,
            256,
            "the most requests that are answered at once, streamed or not; more get a 503",
        ),
        ("--timeout-headers", _above_0, 15, "the most seconds for the head of a request"),
        ("--timeout-body", _above_0, 60, "the most seconds for the body of a request"),
        ("--timeout-send", _above_0, 60, "the most seconds for which a client takes no data"),
        ("--timeout-idle", _count, 75, "the most seconds of a connection without a request"),
        ("--grace", _seconds, 30, "the seconds that requests in progress have at the end"),
    ):
        group.add_argument(
            name, type=kind, default=default, metavar="N", help=f"{what}; default: %(default)s"
        )


def _port(text: str) -> int:
    return _whole(text, 0, 65535)


def _host_name(text: str) -> str:
    # As requests have it, but for the port, which is not compared.
    if not re.fullmatch(r"[\w.-]+|\[[\da-fA-F:.]+\]", text):
        raise argparse.ArgumentTypeError(
            f"a name without scheme and port, as llm.example.com or [2001:db8::1], not {text!r}"
        )
    return text.lower()


def _origin(text: str) -> str:
    # "null" is that of pages that are files.
    if text not in ("*", "null") and not re.fullmatch(r"[\w.+-]+://[^/?#@]+/?", text):
        raise argparse.ArgumentTypeError(
            f"an address without path, as https://example.com, or *, not {text!r}"
        )
    return text.removesuffix("/").lower()


def _count(text: str) -> int:
    return _whole(text, 1, 10**9)


def _whole(text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit()) or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"a whole number from {least} to {most}, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 10**9:
        raise argparse.ArgumentTypeError(f"a number of at least 0, not {text!r}")
    return value


def _above_0(text: str) -> float:
    value = _seconds(text)
    if not value:
        raise argparse.ArgumentTypeError(f"a number above 0, not {text!r}")
    return value


def run_serve(options: argparse.Namespace) -> int:
    for module in ("starlette", "uvicorn"):
        needs(module, extra="server")
    from asteady.server._process.app import Served
    from asteady.server._process.http_server import new_event_loop
    from asteady.server._process.keys import read_keys
    from asteady.server._process.listening import is_loopback, listen_tcp, listen_unix

    keys = read_keys(options.api_key, options.api_key_file)
    host, port = options.host or _HOST, _PORT if options.port is None else options.port
    over_tcp = not options.unix_socket or options.host is not None or options.port is not None
    local = not over_tcp or is_loopback(host)
    if not (local or keys or options.insecure):
        raise SettingsError(
            f"--host {host} is reached by other machines, and there is no API key: set"
            " ASTEADY_API_KEY, give --api-key-file FILE, or --insecure if everybody there may ask"
        )
    generation, named = _models(options.model)
    settings = Settings.from_environment(
        generation_model=generation,
        embedding_model=options.embedding_model,
        context_tokens=options.context,
    )
    hosts = (*options.allowed_host, f"[{host}]" if ":" in host else host)
    served = Served(
        models=named,
        keys=keys,
        hosts=hosts if local or options.allowed_host else None,
        origins=options.cors_origin,
        max_body_bytes=int(options.max_body_mb * MEBIBYTE),
        max_messages=options.max_messages,
        max_streams=options.max_streams,
        dashboard=local if options.dashboard is None else options.dashboard,
        show_prompts=options.show_prompts,
    )
    listeners: list[Listener] = []
    try:
        if over_tcp:
            listeners += listen_tcp(host, port)
        for path in options.unix_socket:
            listeners.append(listen_unix(path))
        _log_to_standard_error(options)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_serve(options, settings, served, listeners))
    finally:
        for listener in listeners:
            listener.close()
    return 0


def _models(given: Sequence[str]) -> tuple[str | None, dict[str, str]]:
    """The reference of the first model, and the names of all.

    Raises:
        SettingsError: two have the same name.
    """
    from asteady.server._openai.served import name_of

    references: list[str] = []
    named: dict[str, str] = {}
    for text in given:
        name, equals, reference = text.partition("=")
        # The address of a remote model may have options.
        if not equals or text.startswith(REMOTE_PREFIX) or Path(text).exists():
            name, reference = name_of(text), text
        if not (name and reference):
            raise SettingsError(f"--model {text} is not allowed: give NAME=MODEL, or MODEL")
        if named.setdefault(name, reference) != reference:
            raise SettingsError(
                f"--model {text}: {named[name]} is called {name} too; give it another name with"
                " NAME=MODEL"
            )
        references.append(reference)
    return (references[0] if references else None), named


def _log_to_standard_error(options: argparse.Namespace) -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    if not options.quiet and not sys.stderr.isatty():
        logging.getLogger("asteady").setLevel(logging.INFO)


async def _serve(
    options: argparse.Namespace, settings: Settings, served: Served, listeners: Sequence[Listener]
) -> None:
    from asteady.server._process.run import run
    from asteady.server._process.timeouts import Timeouts

    session = make_session(settings)
    generation = dict.fromkeys((settings.generation_model, *served.models.values()))
    models: list[tuple[Kind, str]] = [("generation", reference) for reference in generation]
    models.append(("embedding", settings.embedding_model))
    await run(
        session,
        served,
        listeners,
        Timeouts(
            head_s=options.timeout_headers,
            body_s=options.timeout_body,
            send_s=options.timeout_send,
            idle_s=options.timeout_idle,
        ),
        preload=models if options.preload else [],
        grace_s=options.grace,
        listening=lambda: _say_listening(options, settings, served, listeners),
        loading=progress(options, activities_of(session), "loading the models"),
        ready=lambda: _say_ready(options, settings, served, listeners[0]),
    )


def _names(settings: Settings, named: Mapping[str, str]) -> list[str]:
    from asteady.server._openai.served import name_of

    models = (settings.generation_model, settings.embedding_model)
    return list(dict.fromkeys([*named, *map(name_of, models)]))


def _say_listening(
    options: argparse.Namespace, settings: Settings, served: Served, listeners: Sequence[Listener]
) -> None:
    for listener in listeners:
        print(listener.address, flush=True)
    _say(options, f"models: {', '.join(_names(settings, served.models))}")
    if settings.generation_model == "builtin":
        _say(
            options,
            "the built-in model is only a small demonstration; choose another one with --model"
            " smollm2, --model FILE.gguf or ASTEADY_GENERATION_MODEL (asteady models list shows"
            " more)",
        )


def _say_ready(
    options: argparse.Namespace, settings: Settings, served: Served, listener: Listener
) -> None:
    where = listener.address
    if listener.identity is not None:
        where = f"--unix-socket {shlex.quote(where)} http://localhost"
    key = ' -H "Authorization: Bearer $ASTEADY_API_KEY"' if served.keys else ""
    body = {
        "model": _names(settings, served.models)[0],
        "messages": [{"role": "user", "content": "Hello"}],
    }
    _say(options, "ready; try:")
    _say(options, f"  curl {where}/v1/chat/completions{key} --json {shlex.quote(json.dumps(body))}")
    if served.dashboard and listener.identity is None:
        _say(options, f"dashboard: {where}/dashboard/")
    _say(options, "Ctrl-C ends it")


def _say(options: argparse.Namespace, text: str) -> None:
    if not options.quiet:
        print(f"asteady: {text}", file=sys.stderr, flush=True)
