"""Other ways to say `Session.warm`: by function, and by priority."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Unpack

from asteady._base.checks import check_count, check_list, check_seconds
from asteady._base.errors import InvalidRequestError
from asteady._base.options import check_options
from asteady._session.session import Session
from asteady._session.warm import (
    PRIORITIES,
    Priority,
    WarmerOptions,
    WarmOptions,
    WarmPrompt,
    WarmReport,
    WarmSource,
)
from asteady.operate._which import opened_session

# The one that these take unless told otherwise; `generate` and `Session.warm` take 512.
_MAX_NEW_TOKENS = 100
_NOT_HERE = {"seed", "budget_s"}


async def warm_cache_sequential(
    prompts: WarmSource,
    seeds: Sequence[int] | None = None,
    *,
    session: Session | None = None,
    **options: Unpack[WarmerOptions],
) -> WarmReport:
    """`Session.warm`, one prompt after the other, with ``max_new_tokens=100``.

    Without a session: the running loop's default one. Raises as `Session.warm`.
    """
    return await _warm(session, "warm_cache_sequential", prompts, seeds, 1, options)


async def warm_cache_parallel(
    prompts: WarmSource,
    seeds: Sequence[int] | None = None,
    max_workers: int = 4,
    *,
    session: Session | None = None,
    **options: Unpack[WarmerOptions],
) -> WarmReport:
    """`Session.warm`, `max_workers` prompts at once, with ``max_new_tokens=100``."""
    check_count("max_workers", max_workers)
    return await _warm(session, "warm_cache_parallel", prompts, seeds, max_workers, options)


async def _warm(
    session: Session | None,
    call: str,
    prompts: WarmSource,
    seeds: Sequence[int] | None,
    concurrency: int,
    options: WarmerOptions,
) -> WarmReport:
    # Those that have a parameter of their own would be lost among the others.
    check_options(call, options, WarmerOptions.__annotations__.keys() - {"seed"})
    how: dict[str, Any] = {"max_new_tokens": _MAX_NEW_TOKENS, **options}
    how |= {"seeds": seeds, "concurrency": concurrency}
    return await (await opened_session(session)).warm(prompts, **how)


class StrategicCacheWarmer:
    """Gathers prompts by priority, and warms the high ones first. Holds nothing to be closed."""

    def __init__(self, session: Session | None = None) -> None:
        self._given = session
        self.priority_prompts: dict[Priority, list[WarmPrompt]] = {
            priority: [] for priority in PRIORITIES
        }

    def __repr__(self) -> str:
        waiting = ", ".join(f"{len(p)} {name}" for name, p in self.priority_prompts.items())
        return f"<StrategicCacheWarmer: {waiting}>"

    def add_prompts(self, prompts: Iterable[WarmPrompt], priority: Priority = "medium") -> None:
        """Add prompts to one priority: "high", "medium" or "low".

        Raises:
            InvalidRequestError: there is no such priority, or `prompts` is no list of them.
        """
        check_list("prompts", prompts, "prompts")
        if priority not in self.priority_prompts:
            raise InvalidRequestError(
                f'priority={priority!r} is not allowed: "high", "medium" or "low"'
            )
        self.priority_prompts[priority].extend(prompts)

    async def warm_cache(
        self, available_time: float | None = 30.0, **options: Unpack[WarmOptions]
    ) -> WarmReport:
        """Warm what there is time for, in `available_time` seconds; None is without a limit.

        No medium prompt begins before the high ones have ended, and no low one before the medium
        ones. What is cached is skipped, so a second call goes on where the first one stopped.

        Raises:
            InvalidRequestError: an argument is not allowed.
        """
        if available_time is not None:
            check_seconds("available_time", available_time)
        check_options("warm_cache", options, WarmOptions.__annotations__.keys() - _NOT_HERE)
        prompts: list[WarmPrompt] = []
        for priority, given in self.priority_prompts.items():
            prompts += [
                {"prompt": prompt, "priority": priority}
                if isinstance(prompt, str)
                else {**prompt, "priority": priority}
                for prompt in given
            ]
        how: dict[str, Any] = {"max_new_tokens": _MAX_NEW_TOKENS, **options}
        how["budget_s"] = available_time
        return await (await opened_session(self._given)).warm(prompts, **how)
