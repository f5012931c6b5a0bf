"""Snapshots of the caches' sizes and hit rates in files, and the trends between them."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import statistics
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio.to_thread

from asteady._base import validation
from asteady._base.errors import InvalidRequestError
from asteady._base.files import AnyPath, write_atomically
from asteady._base.public import public
from asteady._base.requests import KINDS
from asteady._cache.store.api import MAX_FILE_BYTES, Exported, Merged
from asteady._session.session import Session
from asteady.operate._plots import plot_history
from asteady.operate._resolve_session import opened_session, session_now, stats_of

logger = logging.getLogger("asteady")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PREFIX, _SUFFIX = "cache_state_", ".json"
_DAY_S = 86400.0
# An hour: a burst of a minute says nothing about a day.
_MIN_SPAN_DAYS = 1 / 24
# A snapshot has some hundred bytes.
_MAX_STATE_BYTES = 1024 * 1024
# Fields that every snapshot has for each cache; SteadyText's have no others.
_NEEDED = ("size", "capacity", "hit_rate")


@public
class CachePersistenceManager:
    """Writes and compares snapshots of a session's caches; exports and imports entries.

    It needs no closing: its only state is the files.

    Args:
        session: default: the running loop's default session.
        backup_dir: the directory of the snapshots, created with the first one.
    """

    def __init__(
        self,
        session: Session | None = None,
        *,
        backup_dir: AnyPath = "./cache_backups",
    ) -> None:
        self.backup_dir = Path(backup_dir)
        self._given = session

    def __repr__(self) -> str:
        return f"<CachePersistenceManager {os.fspath(self.backup_dir)!r}>"

    async def export_cache_metadata(self) -> dict[str, Any]:
        """Sizes and hit rates of the caches now, ready for JSON.

        `timestamp` is ISO 8601 in UTC. ``generation_cache`` and ``embedding_cache`` have `size` and
        `capacity` in entries, `size_bytes` and `max_size_bytes`, `hit_rate` in percent of this
        process's look-ups, and over all processes and runs `all_hit_rate`, `evictions` and
        `seconds_saved`.

        Raises:
            SessionError: the session is not open yet, or is closed.
        """
        stats = await stats_of(session_now(self._given))
        return {
            "timestamp": datetime.now(UTC).isoformat(),
            **{f"{kind}_cache": _described(stats[kind]) for kind in KINDS},
        }

    async def save_cache_state(self, name: str) -> Path:
        """Write the metadata to ``cache_state_<name>.json`` atomically; returns its path.

        Replaces a snapshot of the same name.

        Raises:
            InvalidRequestError: the name has other characters than letters, digits, ``.``, ``_``
                and ``-``, does not begin with a letter or digit, or is longer than 100.
            OSError: the file cannot be written.
        """
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise validation.refuse(
                "name",
                name,
                "up to 100 letters, digits, '.', '_' and '-', with a letter or digit first",
            )
        metadata = await self.export_cache_metadata()
        data = json.dumps(metadata, indent=2).encode() + b"\n"

        def write() -> Path:
            self.backup_dir.mkdir(parents=True, exist_ok=True)
            return write_atomically(self.backup_dir / f"{_PREFIX}{name}{_SUFFIX}", data)

        path = await anyio.to_thread.run_sync(write)
        logger.info("cache state saved to %s", path)
        return path

    async def history(self) -> list[dict[str, Any]]:
        """All valid snapshots in the order of their times, each with its `filename`.

        Others are logged and skipped. Snapshots written by SteadyText are read too; their times
        have no zone and count as local.
        """
        return (await anyio.to_thread.run_sync(self._read))[0]

    async def analyze_cache_history(self) -> dict[str, Any]:
        """Trends over all snapshots, ready for JSON.

        `total_snapshots`, `date_range`, `unreadable` (file names), and for each cache, in
        ``generation_cache_trend`` and ``embedding_cache_trend``: the smallest, largest, first and
        last size, the mean and last hit rate, and their changes from first to last (`size_change`,
        `hit_rate_change` in points) and per day (`size_per_day`, `hit_rate_per_day`: least-squares
        slopes over all snapshots, None if those span less than an hour). `full_in_days` is when
        the cache will be full at that growth; None if it does not grow.

        If there is no snapshot, only `error`.
        """
        history, unreadable = await anyio.to_thread.run_sync(self._read)
        if not history:
            return {"error": "No cache history found"}
        return {
            "total_snapshots": len(history),
            "date_range": {"start": history[0]["timestamp"], "end": history[-1]["timestamp"]},
            **{f"{kind}_cache_trend": _trend(history, f"{kind}_cache") for kind in KINDS},
            "unreadable": unreadable,
        }

    async def plot_history(self, path: AnyPath) -> Path:
        """Draw sizes and hit rates over time; the format follows the name (``.png``, ``.svg``).

        Raises:
            SettingsError: matplotlib is not installed (the extra ``plot``).
            InvalidRequestError: there is no snapshot, or the format is not known.
            OSError: the file cannot be written.
        """
        history = await self.history()
        if not history:
            raise InvalidRequestError(
                f"there is no snapshot in {self.backup_dir}: call save_cache_state(name) first"
            )
        times = [_taken_at(snapshot) for snapshot in history]
        caches: dict[str, list[Any]]
        caches = {kind: [snapshot[f"{kind}_cache"] for snapshot in history] for kind in KINDS}
        await anyio.to_thread.run_sync(plot_history, times, caches, path)
        return Path(path)

    async def export_entries(self, path: AnyPath) -> Exported:
        """Write all entries with their answers to a file; see `CacheManager.export_entries`."""
        return await (await opened_session(self._given)).cache.export_entries(path)

    async def import_entries(
        self, path: AnyPath, *, max_file_bytes: int = MAX_FILE_BYTES
    ) -> dict[str, Merged]:
        """Merge the entries of such a file into the caches; see `CacheManager.import_entries`."""
        session = await opened_session(self._given)
        return await session.cache.import_entries(path, max_file_bytes=max_file_bytes)

    def _read(self) -> tuple[list[dict[str, Any]], list[str]]:
        history: list[dict[str, Any]] = []
        unreadable: list[str] = []
        for file in sorted(self.backup_dir.glob(f"{_PREFIX}*{_SUFFIX}")):
            try:
                history.append({**_checked(file), "filename": file.name})
            except (OSError, ValueError, TypeError, KeyError, RecursionError) as exc:
                logger.warning("the snapshot %s cannot be read: %s", file, exc)
                unreadable.append(file.name)
        return sorted(history, key=_taken_at), unreadable


def _taken_at(snapshot: Mapping[str, Any]) -> datetime:
    """The time of a snapshot in UTC; one without a zone is local."""
    return datetime.fromisoformat(snapshot["timestamp"]).astimezone(UTC)


def _checked(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        data = opened.read(_MAX_STATE_BYTES + 1)
    if len(data) > _MAX_STATE_BYTES:
        raise ValueError(f"larger than {_MAX_STATE_BYTES:,} bytes")
    snapshot = json.loads(data)
    _taken_at(snapshot)
    for kind in KINDS:
        for name in _NEEDED:
            number = snapshot[f"{kind}_cache"][name]
            if type(number) not in (int, float) or not math.isfinite(number):
                raise ValueError(f"{name} of the {kind} cache is {number!r}")
    return dict(snapshot)


def _described(stats: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "size": stats["size"],
        "capacity": stats["capacity"],
        "hit_rate": _percent(stats["hits"], stats["misses"]),
        "size_bytes": stats["total_size_bytes"],
        "max_size_bytes": stats["max_size_bytes"],
        "all_hit_rate": _percent(stats["all_hits"], stats["all_misses"]),
        "evictions": stats["all_evictions"],
        "seconds_saved": stats["all_seconds_saved"],
    }


def _percent(hits: int, misses: int) -> float:
    return 100.0 * hits / (hits + misses) if hits + misses else 0.0


def _trend(history: list[dict[str, Any]], cache: str) -> dict[str, Any]:
    start = _taken_at(history[0])
    days = [(_taken_at(snapshot) - start).total_seconds() / _DAY_S for snapshot in history]
    sizes = [snapshot[cache]["size"] for snapshot in history]
    rates = [snapshot[cache]["hit_rate"] for snapshot in history]
    per_day = _slope(days, sizes)
    room = max(0, history[-1][cache]["capacity"] - sizes[-1])
    return {
        "min_size": min(sizes),
        "max_size": max(sizes),
        "avg_hit_rate": statistics.fmean(rates),
        "first_size": sizes[0],
        "last_size": sizes[-1],
        "size_change": sizes[-1] - sizes[0],
        "size_per_day": per_day,
        "full_in_days": room / per_day if per_day is not None and per_day > 0 else None,
        "last_hit_rate": rates[-1],
        "hit_rate_change": rates[-1] - rates[0],
        "hit_rate_per_day": _slope(days, rates),
    }


def _slope(days: list[float], values: list[float]) -> float | None:
    """The least-squares slope; None if the days span too little."""
    if days[-1] - days[0] < _MIN_SPAN_DAYS:
        return None
    return statistics.linear_regression(days, values).slope
