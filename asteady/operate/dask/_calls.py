"""`embed` and `generate` on a cluster of Dask."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, overload

import numpy as np
from dask.base import is_dask_collection
from dask.delayed import Delayed, delayed
from dask.utils import is_dataframe_like, is_series_like
from distributed import Client
from numpy.typing import NDArray

from asteady._base.errors import AsteadyError, InvalidRequestError
from asteady._base.files import AnyPath
from asteady._base.options import (
    EmbedOptions,
    GenerateOptions,
    SettingsOptions,
    TypedOptions,
    check_options,
    shows_options_of,
)
from asteady._base.public import public
from asteady._base.requests import (
    DeclaredPrefix,
    EmbedRequest,
    GenerateRequest,
)
from asteady._base.settings import Settings
from asteady._base.validation import one_of, refuse, whole_number
from asteady._session.pipeline import CacheMode
from asteady.operate.dask import _tasks
from asteady.operate.dask._answers import Answers
from asteady.operate.dask._session_plugin import SessionPlugin
from asteady.operate.dask._tasks import Errors, Job

if TYPE_CHECKING:
    from dask.bag import Bag
    from dask.dataframe import Series

T = TypeVar("T")

_EMBED_OPTIONS = frozenset(EmbedOptions.__annotations__)
_GENERATE_OPTIONS = frozenset(TypedOptions.__annotations__)


@overload
def embed(
    client: Client,
    texts: Bag,
    *,
    model: AnyPath | None = None,
    cache: CacheMode = "use",
    errors: Errors = "raise",
    settings: SettingsOptions | None = None,
    batch_size: int = 256,
    **options: Unpack[EmbedOptions],
) -> Bag: ...


@overload
def embed(
    client: Client,
    texts: Series,
    *,
    model: AnyPath | None = None,
    cache: CacheMode = "use",
    errors: Errors = "raise",
    settings: SettingsOptions | None = None,
    batch_size: int = 256,
    **options: Unpack[EmbedOptions],
) -> Series: ...


@overload
def embed(
    client: Client,
    texts: Delayed,
    *,
    model: AnyPath | None = None,
    cache: CacheMode = "use",
    errors: Errors = "raise",
    settings: SettingsOptions | None = None,
    batch_size: int = 256,
    **options: Unpack[EmbedOptions],
) -> Delayed: ...


@overload
def embed(
    client: Client,
    texts: Iterable[str] | AsyncIterable[str],
    *,
    model: AnyPath | None = None,
    cache: CacheMode = "use",
    errors: Literal["raise"] = "raise",
    settings: SettingsOptions | None = None,
    batch_size: int = 256,
    **options: Unpack[EmbedOptions],
) -> Answers[NDArray[np.float32]]: ...


@overload
def embed(
    client: Client,
    texts: Iterable[str] | AsyncIterable[str],
    *,
    model: AnyPath | None = None,
    cache: CacheMode = "use",
    errors: Errors,
    settings: SettingsOptions | None = None,
    batch_size: int = 256,
    **options: Unpack[EmbedOptions],
) -> Answers[NDArray[np.float32] | AsteadyError]: ...


@public
@shows_options_of(EmbedRequest.of)
def embed(
    client: Client,
    texts: Any,
    *,
    model: AnyPath | None = None,
    cache: CacheMode = "use",
    errors: Errors = "raise",
    settings: SettingsOptions | None = None,
    batch_size: int = 256,
    **options: Unpack[EmbedOptions],
) -> Any:
    """Embed a collection of texts on a cluster of Dask.

    What it returns is of the kind of `texts`, in the same order:

    - of an iterable (or, with an asynchronous client, an async one), `Answers`: an iterator over
      read-only float32 arrays of shape (dimensions,), each with L2 norm 1;
    - of a `dask.bag.Bag`, or a `Delayed` list, the same of such arrays, to be computed;
    - of a column of a dask.dataframe, a column of such arrays, to be computed: null for a text that
      is null, and for an error with ``errors="return"``. It goes to Parquet by
      ``to_parquet(..., schema=None)``.

    The vectors are those of `asteady.Session.embed`, bit for bit, on machines with the same
    fingerprint. Each worker has a session, which stays open until the worker ends. Equal texts are
    computed once, as far as the workers' caches hold; see docs/dask.md.

    Args:
        client: decides where, and must not be asynchronous for collections of Dask.
        texts: the texts; an iterable is read as answers are taken.
        model: a reference that each worker can find, see docs/models.md; default: its session's.
        cache: as in `asteady.Session.generate`.
        errors: "return" gives an `AsteadyError` in place of the answer that a text has not, such as
            one that is too long. What fails for all of them, as a missing model, is raised.
        settings: of the workers' sessions, as arguments of `asteady.Session`; they go before the
            variables of the worker's machine.
        batch_size: how many texts of an iterable are a task.
        options: truncate=False, dimensions=None, mode=None; see `asteady.EmbedOptions`.

    Raises:
        InvalidRequestError: an argument is not allowed.
        SettingsError: one of `settings` is not.
        AsteadyError: as `asteady.Session.embed`, with the number of the text in a note; when the
            answer is read or computed.
    """
    check_options("embed", options, _EMBED_OPTIONS)
    EmbedRequest.of("", **options)
    job = {"kind": "embedding", "options": {"model": model, "cache": cache, **options}}
    functions = (_tasks.asteady_embed, _tasks.asteady_embed_column)
    return _ask(client, "texts", texts, functions, job, errors, settings, batch_size)


@overload
def generate(
    client: Client,
    prompts: Bag,
    *,
    prefix: str | None = None,
    model: AnyPath | None = None,
    cache: CacheMode = "use",
    errors: Errors = "raise",
    settings: SettingsOptions | None = None,
    batch_size: int = 32,
    **options: Unpack[TypedOptions],
) -> Bag: ...


@overload
def generate(
    client: Client,
    prompts: Series,
    *,
    prefix: str | None = None,
    model: AnyPath | None = None,
    cache: CacheMode = "use",
    errors: Errors = "raise",
    settings: SettingsOptions | None = None,
    batch_size: int = 32,
    **options: Unpack[TypedOptions],
) -> Series: ...


@overload
def generate(
    client: Client,
    prompts: Delayed,
    *,
    prefix: str | None = None,
    model: AnyPath | None = None,
    cache: CacheMode = "use",
    errors: Errors = "raise",
    settings: SettingsOptions | None = None,
    batch_size: int = 32,
    **options: Unpack[TypedOptions],
) -> Delayed: ...


@overload
def generate(
    client: Client,
    prompts: Iterable[str | Mapping[str, Any]] | AsyncIterable[str | Mapping[str, Any]],
    *,
    prefix: str | None = None,
    model: AnyPath | None = None,
    cache: CacheMode = "use",
    errors: Literal["raise"] = "raise",
    settings: SettingsOptions | None = None,
    batch_size: int = 32,
    **options: Unpack[GenerateOptions],
) -> Answers[str]: ...


@overload
def generate(
    client: Client,
    prompts: Iterable[str | Mapping[str, Any]] | AsyncIterable[str | Mapping[str, Any]],
    *,
    prefix: str | None = None,
    model: AnyPath | None = None,
    cache: CacheMode = "use",
    errors: Literal["raise"] = "raise",
    settings: SettingsOptions | None = None,
    batch_size: int = 32,
    schema: type[T],
    **options: Unpack[GenerateOptions],
) -> Answers[T]: ...


@overload
def generate(
    client: Client,
    prompts: Iterable[str | Mapping[str, Any]] | AsyncIterable[str | Mapping[str, Any]],
    *,
    prefix: str | None = None,
    model: AnyPath | None = None,
    cache: CacheMode = "use",
    errors: Errors = "raise",
    settings: SettingsOptions | None = None,
    batch_size: int = 32,
    **options: Unpack[TypedOptions],
) -> Answers[Any]: ...


@public
@shows_options_of(GenerateRequest.of)
def generate(
    client: Client,
    prompts: Any,
    *,
    prefix: str | None = None,
    model: AnyPath | None = None,
    cache: CacheMode = "use",
    errors: Errors = "raise",
    settings: SettingsOptions | None = None,
    batch_size: int = 32,
    **options: Unpack[TypedOptions],
) -> Any:
    """Generate text for a collection of prompts on a cluster of Dask; all else as `embed`.

    A prompt is a str, or a mapping of arguments of `asteady.Session.generate`, which go before
    those of this call: ``{"messages": [...]}``, ``{"prompt": "Hello", "seed": 7}``. An answer is
    what `generate` returns: a str, or with `schema` or `choices` a value. In a column of a
    dask.dataframe a value is as JSON has it.

    Args:
        client, model, cache, errors, settings, batch_size: as in `embed`.
        prompts: the prompts; an iterable is read as answers are taken.
        prefix: what all of them begin with, computed once, as in `asteady.Session.prefix`: the
            content of a first message with the role "system".
        options: seed=42, max_new_tokens=512, temperature=0.0 and the others of
            `asteady.TypedOptions`.

    Raises:
        InvalidRequestError, SettingsError: as in `embed`.
        AsteadyError: as `asteady.Session.generate`, with the number of the prompt in a note; when
            the answer is read or computed.
    """
    check_options("generate", options, _GENERATE_OPTIONS)
    if "messages" not in options:  # else none of them is complete
        GenerateRequest.of("-", **options)
    if prefix is not None:
        DeclaredPrefix.of(prefix)
    job = {
        "kind": "generation",
        "options": {"model": model, "cache": cache, **options},
        "prefix": prefix,
    }
    functions = (_tasks.asteady_generate, _tasks.asteady_generate_column)
    return _ask(client, "prompts", prompts, functions, job, errors, settings, batch_size)


def _ask(
    client: Client,
    name: str,
    items: Any,
    functions: tuple[Callable[..., Any], Callable[..., Any]],
    job_of: Mapping[str, Any],
    errors: Errors,
    settings: SettingsOptions | None,
    batch_size: int,
) -> Any:
    if not isinstance(client, Client):
        raise refuse("client", client, "a dask.distributed.Client")
    one_of("errors", errors, ("raise", "return"))
    whole_number("batch_size", batch_size, 1)
    if settings is not None and not isinstance(settings, Mapping):
        raise refuse(
            "settings", settings, 'a mapping, as {"workers": 2}; the rest is of each machine'
        )
    settings = settings or {}
    Settings.from_environment(**settings)  # refused here, and not on the workers
    plugin = SessionPlugin(settings)
    job = Job(plugin=plugin.name, errors=errors, **job_of)
    of_list, of_column = functions
    if not is_dask_collection(items):
        if isinstance(items, str | bytes | Mapping) or not isinstance(
            items, Iterable | AsyncIterable
        ):
            allowed = "an iterable, or of Dask a Bag, a Delayed list or a data frame's column"
            raise refuse(name, items, allowed)
        if isinstance(items, list | tuple) and items and is_dask_collection(items[0]):
            raise refuse(name, items, "make a bag of Delayed lists: dask.bag.from_delayed(...)")
        return Answers(client, items, plugin, of_list, job, batch_size)
    if client.asynchronous:
        raise InvalidRequestError(
            f"{name} of Dask need a client that is not asynchronous; with this one, give an "
            "iterable or async iterable"
        )
    client.register_plugin(plugin)
    if isinstance(items, Delayed):
        return delayed(of_list, pure=True)(items, job)
    if is_series_like(items):
        meta = (items.name, _tasks.column_type(job))
        return items.map_partitions(of_column, job, meta=meta)
    if hasattr(items, "map_partitions") and not is_dataframe_like(items):
        return items.map_partitions(of_list, job)
    raise refuse(name, items, f"a Bag, a Delayed, or one column of a data frame: {name}['column']")
