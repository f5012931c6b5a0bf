"""What is known of the shared tier without redis-py, which only `redis.py` imports."""

from __future__ import annotations

from typing import Any, TypeAlias

from asteady._base.errors import AsteadyError

Lease: TypeAlias = Any
"""What the tier knows a lease by."""


class SharedTierError(AsteadyError):
    """The shared tier cannot be used now. Never leaves the cache, where it is a miss."""
