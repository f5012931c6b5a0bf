"""What runs on the workers: one function for each kind of collection.

Their names are those of the tasks on Dask's dashboard. All may run twice, on any worker: an answer
depends on its request only, and one that was stored is not computed again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs
from dask.base import tokenize

from asteady._base.errors import AsteadyError, ModelError, SessionError
from asteady._base.records import plain
from asteady._base.requests import Kind
from asteady._base.tasks import map_concurrently
from asteady._base.validation import refuse
from asteady._session.session import Session
from asteady.operate.dask._session_plugin import plugin_here

if TYPE_CHECKING:
    import pandas as pd

Errors: TypeAlias = Literal["raise", "return"]
"""What becomes of a text or prompt without an answer: its error is raised, or takes its place."""


@attrs.frozen(kw_only=True)
class Job:
    """What is asked of each text or prompt; it goes to the workers with each task."""

    plugin: str
    kind: Kind
    options: Mapping[str, Any]
    prefix: str | None = None
    errors: Errors = "raise"

    @property
    def typed(self) -> bool:
        """Whether answers are values, and not text."""
        return any(self.options.get(name) is not None for name in ("schema", "choices"))


def key_of(item: object) -> object:
    """What equal texts or prompts have in common, and others have not."""
    return item if type(item) is str else (tokenize(item),)


def asteady_embed(items: Iterable[Any], job: Job, numbers: Sequence[int] = ()) -> list[Any]:
    """The answers, in order. `numbers` are the items' own, for the notes of errors."""
    return _answers(items, job, "texts", numbers)


def asteady_generate(items: Iterable[Any], job: Job, numbers: Sequence[int] = ()) -> list[Any]:
    return _answers(items, job, "prompts", numbers)


def asteady_embed_column(column: pd.Series[Any], job: Job) -> pd.Series[Any]:
    """The answers as a column with the same index; null where there is no text, or an error."""
    return _column(column, job, asteady_embed)


def asteady_generate_column(column: pd.Series[Any], job: Job) -> pd.Series[Any]:
    return _column(column, job, asteady_generate)


def column_type(job: Job) -> Any:
    """The type of a column of answers: of text, or of objects.

    pandas writes the name of a type of Arrow's lists to Parquet, and cannot read it again.
    """
    import pandas as pd

    return pd.StringDtype("pyarrow") if job.kind == "generation" and not job.typed else object


def _column(
    column: pd.Series[Any], job: Job, answers_of: Callable[[Any, Job], list[Any]]
) -> pd.Series[Any]:
    import pandas as pd

    there = column.notna()
    found = iter(answers_of(column[there], job))
    answers: Any = [next(found) if known else None for known in there]
    answers = [None if isinstance(answer, AsteadyError) else answer for answer in answers]
    if job.typed:  # Parquet has no objects of Python
        answers = [plain(answer) for answer in answers]
    return pd.Series(answers, column.index, column_type(job), column.name)


def _answers(items: Iterable[Any], job: Job, noun: str, numbers: Sequence[int]) -> list[Any]:
    every = list(items)
    if not every:
        return []
    keys = [key_of(item) for item in every]
    # Of equal ones the first.
    places = {key: len(keys) - 1 - at for at, key in enumerate(reversed(keys))}

    def label(place: int) -> str:
        return f"{noun}[{numbers[place]}]" if numbers else f"{noun}[{place}] of a partition"

    async def compute(session: Session, limit: asyncio.Semaphore) -> list[Any]:
        async def answer(place: int) -> Any:
            async with limit:
                return await _answer(session, job, every[place])

        return await map_concurrently(answer, list(places.values()), limit=64, label=label)

    found = plugin_here(job.plugin).run(compute)
    answers = dict(zip(places, found, strict=True))
    return [answers[key] for key in keys]


async def _answer(session: Session, job: Job, item: Any) -> Any:
    try:
        if job.kind == "embedding":
            if not isinstance(item, str):
                raise refuse("text", item, f"a str is needed, not {type(item).__name__}")
            return await session.embed(item, **job.options)
        calls = session if job.prefix is None else session.prefix(job.prefix)
        prompt = item if isinstance(item, Mapping) else {"prompt": item}
        return await calls.generate(**{**job.options, **prompt})
    except (SessionError, ModelError):  # of all of them
        raise
    except AsteadyError as exc:
        if job.errors == "raise":
            raise
        return exc
