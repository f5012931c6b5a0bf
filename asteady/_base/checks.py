"""Arguments that several tools take, refused with their name, their value and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias, TypeGuard

from asteady._base.errors import InvalidRequestError

CacheType: TypeAlias = Literal["generation", "embedding"]
CACHE_TYPES: tuple[CacheType, ...] = ("generation", "embedding")


def check_cache_type(value: object) -> None:
    if value not in CACHE_TYPES:
        raise InvalidRequestError(
            f'cache_type={value!r} is not allowed: "generation" or "embedding"'
        )


def check_count(name: str, value: object, *, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidRequestError(f"{name}={value!r} is not allowed: at least {least}")


def check_seconds(name: str, value: object, *, zero: bool = True) -> None:
    if not _is_number(value) or value < 0 or (value == 0 and not zero):
        allowed = "seconds, 0 or more" if zero else "seconds, more than 0"
        raise InvalidRequestError(f"{name}={value!r} is not allowed: {allowed}")


def check_percent(name: str, value: object) -> None:
    if not _is_number(value) or not 0 <= value <= 100:
        raise InvalidRequestError(f"{name}={value!r} is not allowed: 0 to 100, in percent")


def check_share(name: str, value: object) -> None:
    if not _is_number(value) or not 0 < value <= 1:
        raise InvalidRequestError(
            f"{name}={value!r} is not allowed: above 0, at most 1 (0.95 is 95 %)"
        )


def check_list(name: str, value: object, of: str) -> None:
    """Not one str, whose letters would be taken for its items, nor a mapping, for its keys."""
    if isinstance(value, (str, bytes, Mapping)):
        raise InvalidRequestError(f"{name} is one {type(value).__name__}: give a list of {of}")
    if not isinstance(value, Iterable):
        raise InvalidRequestError(f"{name}={value!r} is not allowed: a list of {of}")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
