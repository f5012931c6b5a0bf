"""Shared by several commands: arguments, standard input, and opening the cache."""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import attrs

from asteady._base.errors import InvalidRequestError, SettingsError, StoreError
from asteady._base.rendering import DEFAULT_DATE
from asteady._base.requests import DEFAULT_MAX_NEW_TOKENS, DEFAULT_SEED, KINDS
from asteady._base.settings import MEBIBYTE, Settings
from asteady.cli._parser import Commands as Commands
from asteady.cli._progress import add_quiet

if TYPE_CHECKING:
    from asteady._base.activity import Activity

    # Imported when a command runs: what completes at each press of a key builds the parser only.
    from asteady._base.options import SettingsOptions
    from asteady._cache.manager import CacheManager
    from asteady._session.calls import Calls
    from asteady._session.session import Session

# Exit codes of the commands that compare, as those of diff(1) and grep(1): a script must not take
# a missing file for a difference.
DIFFERENT = 1
NOT_COMPARED = 2


def add_model(parser: argparse.ArgumentParser, *, context: bool = True) -> None:
    """The model, and how much of its context is used."""
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help='"builtin", "smollm2", the path of a .gguf file, hf:... or openai+http://...; see'
        " asteady models list",
    )
    if not context:
        return
    parser.add_argument(
        "--context",
        type=int,
        metavar="N",
        help="the most tokens of prompt and answer together; default: what the model was trained"
        " on",
    )


def add_json(parser: argparse.ArgumentParser, what: str = "print as JSON") -> None:
    parser.add_argument("--json", action="store_true", help=what)


def add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed",
        type=int,
        default=DEFAULT_SEED,
        metavar="N",
        help="the number that random choices follow from; default: %(default)s",
    )


def add_max_new_tokens(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=DEFAULT_MAX_NEW_TOKENS,
        metavar="N",
        help="the most tokens of an answer; default: %(default)s",
    )


def add_messages(parser: argparse.ArgumentParser) -> None:
    """The arguments of `prompt_arguments`, beside the prompt."""
    parser.add_argument(
        "--messages",
        metavar="FILE",
        help='instead of a prompt: a JSON file with [{"role": "user", "content": "..."}, ...]; -:'
        " standard input",
    )
    parser.add_argument("--raw", action="store_true", help="skip the model's chat template")
    parser.add_argument(
        "--date",
        metavar="DATE",
        help='the date that the chat template may write, as 2026-11-25 or "today"; default:'
        f" ASTEADY_DATE, or {DEFAULT_DATE}",
    )
    parser.add_argument(
        "--template-option",
        action="append",
        default=[],
        metavar="NAME=JSON",
        help="a variable of the chat template, as enable_thinking=false; may be repeated",
    )
    parser.add_argument(
        "--tools",
        metavar="FILE",
        help="a JSON file with the tools that the model may call, as OpenAI's API has them",
    )
    parser.add_argument(
        "--tool-choice",
        metavar="CHOICE",
        help='"auto" (default), "required", "none", or the name of the tool to call',
    )


def prompt_arguments(options: argparse.Namespace, missing: str | None = None) -> dict[str, Any]:
    """The keyword arguments of `Session.generate` that `add_messages` reads; sets `prompt`.

    Raises:
        InvalidRequestError: a file or a variable is no JSON, or a prompt was given too, or
            standard input is empty: then `missing` is the message, if it is given.
    """
    arguments: dict[str, Any] = {"raw": options.raw}
    if options.date is not None:
        arguments["date"] = options.date
    variables = {}
    for given in options.template_option:
        name, equals, value = given.partition("=")
        try:
            variables[name] = json.loads(value)
        except ValueError as exc:
            what = f"it is no JSON ({exc})" if equals else "it has no ="
            raise InvalidRequestError(
                f"--template-option {given} is not allowed: {what}; a value is as in "
                "enable_thinking=false or style='\"short\"'"
            ) from None
    if options.tools is not None:
        text = read_file("--tools", options.tools)
        arguments["tools"] = _read_json("--tools", options.tools, text)
    if options.tool_choice is not None:
        arguments["tool_choice"] = options.tool_choice
    if variables:
        arguments["chat_template_kwargs"] = variables
    if options.messages is None:
        if options.prompt in (None, "-"):
            options.prompt = read_standard_input("a prompt").removesuffix("\n")
            if not options.prompt:
                raise InvalidRequestError(missing or "standard input is empty: give a prompt")
        options.prompt = text_argument("the prompt", options.prompt)
        return arguments
    if options.prompt is not None:
        raise InvalidRequestError("give either a prompt or --messages: both were given")
    file = options.messages
    text = read_standard_input("messages") if file == "-" else read_file("--messages", file)
    arguments["messages"] = _read_json("--messages", file, text)
    return arguments


def _read_json(option: str, file: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as exc:
        raise InvalidRequestError(f"{option} {file} is not JSON: {exc}") from None


def add_namespace(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--namespace", metavar="PATH", help=what)


def add_request(parser: argparse.ArgumentParser, as_json: str) -> None:
    """The arguments that `generate` and `embed` share."""
    add_model(parser)
    parser.add_argument(
        "--cache",
        choices=("use", "refresh", "bypass", "only"),
        default="use",
        help="use: answer from the cache, or compute and store (default); refresh: compute and"
        " store; bypass: neither read nor write the cache; only: never compute",
    )
    add_namespace(parser, 'tag the answer with this namespace, as "emails/marketing"')
    add_json(parser, as_json)
    add_quiet(parser)


def make_session(settings: Settings | None = None, **more: Unpack[SettingsOptions]) -> Session:
    """A session to be opened. Its modules are imported when a command runs."""
    from asteady._session.session import Session

    return Session(settings, **more)


def calls_under(session: Session, path: str | None) -> Calls:
    """The session, or its namespace with this path."""
    return session if path is None else session.namespace(path)


def activities_of(session: Session) -> Callable[[], tuple[Activity, ...]]:
    return lambda: session.statistics().activities


def read_standard_input(what: str) -> str:
    """All of standard input, decoded as UTF-8.

    Raises:
        InvalidRequestError: it is closed, a terminal, or not valid UTF-8.
    """
    return _decoded("standard input", read_standard_input_bytes(what))


def read_standard_input_bytes(what: str) -> bytes:
    """All of standard input.

    Raises:
        InvalidRequestError: it is closed, or a terminal.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise InvalidRequestError(f"give {what} as an argument, or pipe it to standard input")
    return sys.stdin.buffer.read()


def read_file(option: str, path: str) -> str:
    """All of a file that an option names, decoded as UTF-8.

    Raises:
        InvalidRequestError: it cannot be read, or is not valid UTF-8.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as exc:
        raise InvalidRequestError(f"{option} {path}: {exc.strerror or exc}") from None
    return _decoded(f"{option} {path}", raw)


def _decoded(what: str, raw: bytes) -> str:
    try:
        # A byte order mark, which editors of Windows write, is no part of the text.
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise InvalidRequestError(
            f"{what} is not valid UTF-8: byte 0x{raw[exc.start]:02x} at position {exc.start};"
            " convert it, as with `iconv -f latin1 -t utf-8`"
        ) from None


def text_argument(what: str, text: str) -> str:
    """An argument as text: of its bytes in the encoding of the system, or else in UTF-8.

    Raises:
        InvalidRequestError: it is neither.
    """
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        bad = f"U+{ord(text[exc.start]):04X}"
        with suppress(UnicodeEncodeError):  # on Windows arguments have no bytes
            raw = os.fsencode(text)
            with suppress(UnicodeDecodeError):
                return raw.decode("utf-8")
            bad = f"byte 0x{os.fsencode(text[exc.start]).hex()}"
        raise InvalidRequestError(
            f"{what} is not valid UTF-8: {bad} after {exc.start} characters; convert it, as with"
            " `iconv -f latin1 -t utf-8`"
        ) from None
    return text


def settings_as_found() -> Settings:
    """The settings from the environment, with the sizes and the policy of the existing cache.

    Opening a cache with smaller limits evicts entries. A program may want that, but a command
    does not know the settings of the program and must not evict.

    Raises:
        StoreError: another process has it locked.
    """
    from asteady._cache.policy import POLICIES
    from asteady._cache.store.schema import is_busy

    settings = Settings.from_environment()
    found: dict[str, Any] = {}
    for kind in KINDS:
        path = (settings.cache_dir / f"{kind}_cache.db").absolute()
        if not path.is_file():  # a FIFO, for example, would have to be waited for
            continue
        try:
            uri, timeout_s = f"{path.as_uri()}?mode=ro", settings.store_timeout_s
            with closing(sqlite3.connect(uri, uri=True, timeout=timeout_s)) as connection:
                row = connection.execute("SELECT policy, max_entries, max_bytes FROM cache")
                policy, max_entries, max_bytes = row.fetchone()
            sizes = {
                f"{kind}_cache_capacity": max_entries,
                f"{kind}_cache_max_size_mb": max_bytes / MEBIBYTE,
            }
            attrs.evolve(settings, **sizes)  # raises if they cannot be sizes
            if policy in POLICIES:
                found |= {"cache_policy": policy, **sizes}
        except (sqlite3.Error, UnicodeDecodeError, TypeError, SettingsError) as exc:
            if is_busy(exc):
                # With other sizes, a cache that is opened a moment later would evict entries.
                raise StoreError(
                    f"the cache database {path} cannot be read: {exc}; another process may have it"
                    " locked"
                ) from exc
            continue  # There is no cache, or it is damaged; opening it reports that.
    return attrs.evolve(settings, **found)


@asynccontextmanager
async def opened_manager(settings: Settings, *, check: bool = True) -> AsyncIterator[CacheManager]:
    """The caches, opened with these settings.

    Raises:
        StoreError: a database cannot be opened; without `check`, its methods raise that.
    """
    from asteady._cache.manager import CacheManager

    manager = CacheManager(settings)
    await manager.open()
    try:
        if check:
            await manager.check_open()
        yield manager
    finally:
        await manager.aclose()
