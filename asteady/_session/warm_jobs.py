"""What to warm: from a list, an async iterator or a JSON Lines file to single jobs."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import attrs

from asteady._base.errors import InvalidRequestError
from asteady._base.requests import (
    DEFAULT_SEED,
    GenerateOptions,
    GenerateRequest,
    check_options,
    namespace_path,
)

Priority: TypeAlias = Literal["high", "medium", "low"]
PRIORITIES: tuple[Priority, ...] = ("high", "medium", "low")

WarmPrompt: TypeAlias = str | Mapping[str, Any]
"""A prompt, or a mapping with "prompt" or "messages", and, if it likes, "seed" or "seeds",
"priority" ("high", "medium", "low"), "model", "namespace" and any of `GenerateOptions`."""

WarmSource: TypeAlias = Iterable[WarmPrompt] | AsyncIterable[WarmPrompt] | os.PathLike[str]
"""Prompts, or the path of a JSON Lines file with one of them on each line."""

_OPTIONS = frozenset(GenerateOptions.__annotations__)
_SHOWN = 60


@attrs.frozen(kw_only=True)
class Job:
    """One answer to be warmed, or the reason why that cannot be."""

    where: str
    prompt: str
    seed: int | None = None
    priority: Priority = "medium"
    model: str | None = None
    namespace: str | None = None
    request: GenerateRequest | None = None
    error: Exception | None = None


def jobs_of(
    where: str, value: object, seeds: Sequence[int], options: GenerateOptions, model: str | None
) -> Iterator[Job]:
    """The jobs of one prompt, one for each seed; never raises."""
    prompt = shown(value)
    try:
        item: dict[str, Any] = {"prompt": value} if isinstance(value, str) else _mapping(value)
        priority = item.pop("priority", "medium")
        if priority not in PRIORITIES:
            raise InvalidRequestError(
                f'priority={priority!r} is not allowed: "high", "medium" or "low"'
            )
        model = item.pop("model", model)
        namespace = item.pop("namespace", None)
        namespace = None if namespace is None else namespace_path(namespace)
        if "seed" in item and "seeds" in item:
            raise InvalidRequestError("give either seed or seeds, not both")
        seeds = [item.pop("seed")] if "seed" in item else item.pop("seeds", seeds)
        seeds = check_seeds(seeds)
        text = item.pop("prompt", None)
        check_options("warm", item, _OPTIONS)
        merged: dict[str, Any] = {**options, **item}
    except InvalidRequestError as exc:
        yield Job(where=where, prompt=prompt, error=exc)
        return
    for seed in seeds:
        job = Job(
            where=where,
            prompt=prompt,
            seed=seed,
            priority=priority,
            model=model,
            namespace=namespace,
        )
        try:
            yield attrs.evolve(job, request=GenerateRequest.of(text, **{**merged, "seed": seed}))
        except InvalidRequestError as exc:
            yield attrs.evolve(job, error=exc)


def jobs_of_lines(
    raw: bytes, seeds: Sequence[int], options: GenerateOptions, model: str | None
) -> Iterator[Job]:
    """The jobs of a JSON Lines file; a line that cannot be read is a job that fails."""
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            value = json.loads(line.decode())
        except ValueError as exc:
            error = InvalidRequestError(f"no JSON: {exc}; a plain prompt needs quotes around it")
            yield Job(where=where, prompt=shown(line.decode(errors="replace")), error=error)
            continue
        yield from jobs_of(where, value, seeds, options, model)


def check_seeds(seeds: Sequence[int] | None) -> list[int]:
    """The seeds for prompts that name none of their own."""
    if seeds is None:
        return [DEFAULT_SEED]
    if isinstance(seeds, str) or not isinstance(seeds, Iterable) or not (given := list(seeds)):
        raise InvalidRequestError(f"seeds={seeds!r} is not allowed: a list of at least one number")
    return given


def shown(value: object) -> str:
    """The beginning of a prompt, for reports."""
    if isinstance(value, Mapping):
        value = value.get("prompt") or value.get("messages") or value
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidRequestError(
            f"{shown(value)} is not allowed: a prompt is a str, or a mapping with one"
        )
    return dict(value)
