"""Files written whole or not at all, their identity, and facts remembered between processes."""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias

from asteady._base.forks import ProcessLock

AnyPath: TypeAlias = str | os.PathLike[str]

_log = logging.getLogger("asteady")

# `remember` drops the oldest entries beyond this many, so that its file cannot grow without bound.
_MAX_ENTRIES = 256

_remembering = ProcessLock()

# Two writes within a tick of the file system's clock have the same time. Linux's ticks take 10 ms
# at most; a file system that stores whole seconds may round to even ones.
_TICK_S = 0.02
_COARSE_TICK_S = 2.0


class Identity(NamedTuple):
    """A file and its state: two are equal only if it was neither replaced nor written to between.

    `changed_ns` is the time of the last change of anything, owner and number of names included; no
    program can set it.
    """

    device: int
    inode: int
    size_bytes: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        return cls(
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )


def settled_identity(descriptor: int) -> Identity:
    """The identity of an open file, when any write from now on must change it.

    Blocks until the last write is a tick of the file system's clock ago.
    """
    status = os.fstat(descriptor)
    tick_s = _TICK_S if status.st_ctime_ns % 10**9 else _COARSE_TICK_S
    left_s = status.st_ctime_ns / 1e9 + tick_s - time.time()
    if left_s > 0:
        # The clock of a file server may be ahead.
        time.sleep(min(left_s, tick_s))
        status = os.fstat(descriptor)
    return Identity.of(status)


def absolute_path(path: AnyPath, *, base: Callable[[], Path] = Path.cwd) -> Path:
    """The absolute path, with a leading ~ replaced by the home directory.

    A relative one begins at ``base()``.

    Raises:
        ValueError: no file can have this path; the message says why.
    """
    text = os.fspath(path)
    if "\0" in text:
        raise ValueError("a path has no NUL character")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise ValueError("a path has no lone surrogates") from None
    expanded = os.path.expanduser(text)
    if expanded == text and text.startswith("~"):
        user = Path(text).parts[0]
        raise ValueError(f"there is no home directory {user}: set HOME, or give an absolute path")
    if not os.path.isabs(expanded):
        try:
            return base() / expanded
        except OSError:
            raise ValueError("it is relative, and the current directory is gone") from None
    return Path(expanded)


@contextmanager
def atomic_write(path: AnyPath, *, private: bool = True) -> Iterator[IO[bytes]]:
    """A temporary file beside `path`, which replaces it when the block ends without an error.

    Only its owner can read it, unless `private` is False: then as the umask says. Blocks.

    Raises:
        OSError: the file cannot be written; the error names `path`.
    """
    target = Path(path).absolute()
    draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    mode = 0o600 if private else 0o666
    try:
        file = open(draft, "xb", opener=lambda name, flags: os.open(name, flags, mode))  # noqa: SIM115
    except OSError as exc:
        exc.filename = os.fspath(path)  # not the temporary name
        raise
    try:
        with file:
            yield file
        os.replace(draft, target)
    except BaseException:
        os.unlink(draft)
        raise


def write_atomically(path: AnyPath, data: bytes) -> Path:
    """`atomic_write` of bytes that are at hand; returns the absolute path."""
    with atomic_write(path) as file:
        file.write(data)
    return Path(path).absolute()


def recall(file: Path, key: str) -> Any:
    """The value that `remember` wrote under this key, or None. Never raises."""
    return _read(file).get(key)


def remember(file: Path, key: str, value: Any) -> None:
    """Write an entry to a JSON file of facts that only save time.

    A failure (a read-only or full disk) is logged at debug level. Of two processes that write at
    the same moment one may lose its entry.
    """
    with _remembering:
        entries = _read(file)
        entries.pop(key, None)
        entries[key] = value
        for oldest in list(entries)[:-_MAX_ENTRIES]:
            del entries[oldest]
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(file, json.dumps(entries, indent=1).encode())
        except OSError as exc:
            _log.debug("%s could not be written: %s", file, exc)


def _read(file: Path) -> dict[str, Any]:
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        _log.debug("%s could not be read and counts as empty: %s", file, exc)
        return {}
    return entries if isinstance(entries, dict) else {}
