"""SteadyText's functions over `asteady.blocking`, for programs that move over.

::

    import asteady.steadytext as steadytext

    text = steadytext.generate("Write a haiku about caching", seed=42)

Names and arguments are SteadyText's; options of `asteady.blocking` are accepted too, and the
classes of SteadyText's caching guide are here. Answers and errors are asteady's; see
docs/coming-from-steadytext.md.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, overload

import asteady.blocking as blocking
from asteady._base.errors import InvalidRequestError
from asteady._base.options import shows_options_of
from asteady._base.requests import (
    DEFAULT_MAX_NEW_TOKENS as GENERATION_MAX_NEW_TOKENS,
    DEFAULT_SEED,
    KINDS,
    Kind,
    TextChunk,
    TokenLogprob,
    Vector,
)
from asteady._base.validation import number, refuse
from asteady._engine.models.hub import hub_cache
from asteady._session.default import default_session
from asteady.blocking import (
    CacheAwareGenerator,
    CacheBenchmark,
    CacheInspector,
    CacheMonitor,
    CacheOptimizer,
    CachePersistenceManager,
    HierarchicalCache,
    ProductionCacheMonitor,
    StrategicCacheWarmer,
    close,
    get_cache_manager,
    warm_cache_parallel,
    warm_cache_sequential,
)

__all__ = [
    "DEFAULT_SEED",
    "GENERATION_MAX_NEW_TOKENS",
    "CacheAwareGenerator",
    "CacheBenchmark",
    "CacheInspector",
    "CacheMonitor",
    "CacheOptimizer",
    "CachePersistenceManager",
    "HierarchicalCache",
    "ProductionCacheMonitor",
    "StrategicCacheWarmer",
    "close",
    "embed",
    "generate",
    "generate_iter",
    "get_cache_manager",
    "get_model_cache_dir",
    "is_cached",
    "logger",
    "preload_models",
    "use_daemon",
    "warm_cache_parallel",
    "warm_cache_sequential",
]

__version__ = version("asteady")

EMBEDDING_DIMENSION: int
"""The number of dimensions of the embedding model's vectors; loads the model."""

logger = logging.getLogger("asteady")

_ANY_TEXT = "text"

# Its sampling above temperature 0.
_SAMPLING = {"top_k": 40, "top_p": 0.95, "min_p": 0.05}

# How many alternatives of each token `return_logprobs` has.
_ALTERNATIVES = 5

# Arguments of SteadyText for what asteady has not: the value that asks for nothing, and the remedy.
_STRUCTURED = (
    "answers are plain text here: asteady.blocking.generate takes schema, choices and regex"
)
_NOT_HERE: dict[str, tuple[object, str]] = {
    "size": (None, "there are no sizes: give model=, or set ASTEADY_GENERATION_MODEL"),
    "response_format": (None, _STRUCTURED),
    "schema": (None, _STRUCTURED),
    "regex": (None, _STRUCTURED),
    "choices": (None, _STRUCTURED),
    "return_pydantic": (False, _STRUCTURED),
    "unsafe_mode": (False, "models are local"),
    "options": (None, "models are local"),
}


@overload
def generate(
    prompt: str,
    max_new_tokens: int | None = None,
    return_logprobs: Literal[False] = False,
    eos_string: str = "[EOS]",
    **options: Any,
) -> str: ...


@overload
def generate(
    prompt: str,
    max_new_tokens: int | None = None,
    *,
    return_logprobs: Literal[True],
    **options: Any,
) -> tuple[str, dict[str, Any]]: ...


@shows_options_of(blocking.generate)
def generate(
    prompt: str,
    max_new_tokens: int | None = None,
    return_logprobs: bool = False,
    eos_string: str = "[EOS]",
    **options: Any,
) -> str | tuple[str, dict[str, Any]]:
    """Generate text from a prompt; see `asteady.Session.generate`.

    With ``return_logprobs=True`` a pair: the text and ``{"content": [...]}`` with a dictionary for
    each token: "token", "bytes", "logprob", and "top_logprobs" of the 5 most likely ones.

    Args:
        prompt: what the user says.
        max_new_tokens: default 512.
        return_logprobs: also return log probabilities.
        eos_string: end before this string; "[EOS]" and "" add none to the model's own end.
        options: seed=42, temperature=0.0, model=None, and the others of `asteady.GenerateOptions`;
            None stands for the default. Above temperature 0 it is sampled as SteadyText does,
            with top_k=40, top_p=0.95 and min_p=0.05, unless they are given.
            ``model_repo="owner/repo", model_filename="file.gguf"`` is a model on Hugging Face.

    Raises:
        InvalidRequestError: an argument is not allowed, or asks for what asteady does not have.
        AsteadyError: as `asteady.Session.generate`.
    """
    options = _options(eos_string=eos_string, max_new_tokens=max_new_tokens, **options)
    if not return_logprobs:
        text: str = blocking.generate(prompt, **options)
        return text
    answer = blocking.complete(prompt, logprobs=_ALTERNATIVES, **options)
    return answer.text, _shown(answer.logprobs or ())


@overload
def generate_iter(
    prompt: str,
    max_new_tokens: int | None = None,
    eos_string: str = "[EOS]",
    include_logprobs: Literal[False] = False,
    **options: Any,
) -> Iterator[str]: ...


@overload
def generate_iter(
    prompt: str,
    max_new_tokens: int | None = None,
    eos_string: str = "[EOS]",
    *,
    include_logprobs: Literal[True],
    **options: Any,
) -> Iterator[dict[str, Any]]: ...


@shows_options_of(blocking.generate)
def generate_iter(
    prompt: str,
    max_new_tokens: int | None = None,
    eos_string: str = "[EOS]",
    include_logprobs: bool = False,
    **options: Any,
) -> Iterator[str] | Iterator[dict[str, Any]]:
    """The chunks of `generate`, as they are computed; options and errors as there.

    With ``include_logprobs=True`` a dictionary for each chunk: "token", its text, and "logprobs",
    those of its tokens as `generate` has them. Most chunks are one token; a token that is a part of
    a character comes with the others of it.

    Closing the generator, or dropping it, stops the computation unless somebody else waits.
    """
    options = _options(eos_string=eos_string, max_new_tokens=max_new_tokens, **options)
    if include_logprobs:
        return _chunks_with_logprobs(prompt, options)
    return blocking.generate_iter(prompt, **options)


def _chunks_with_logprobs(prompt: str, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    with blocking.stream(prompt, logprobs=_ALTERNATIVES, **options) as stream:
        for event in stream.events():
            if isinstance(event, TextChunk):
                yield {"token": event.text, "logprobs": _shown(event.logprobs)}


@shows_options_of(blocking.is_cached)
def is_cached(
    prompt: str, max_new_tokens: int | None = None, eos_string: str = "[EOS]", **options: Any
) -> bool:
    """Whether `generate` with these arguments would be answered from the cache; computes nothing.

    Raises:
        InvalidRequestError, ModelError: as `generate`.
    """
    options = _options(eos_string=eos_string, max_new_tokens=max_new_tokens, **options)
    return blocking.is_cached(prompt, **options)


def embed(
    text_input: str | Sequence[str],
    seed: int = DEFAULT_SEED,
    model: str | None = None,
    unsafe_mode: bool = False,
    mode: Literal["query", "passage", "document"] | None = None,
) -> Vector:
    """Embed a text, or several as one: the mean of their vectors, with L2 norm 1.

    Returns a float32 array of shape (dimensions,). Blank texts are left out; without any other the
    vector is zero. `seed` changes nothing; "passage" is another word for "document".

    Raises:
        InvalidRequestError: an argument is not allowed.
        AsteadyError: as `asteady.Session.embed`.
    """
    _options(unsafe_mode=unsafe_mode)
    texts = [text_input] if isinstance(text_input, str) else text_input
    if isinstance(texts, list | tuple):
        texts = [text for text in texts if not isinstance(text, str) or text.strip()]
        if not texts:
            zeros: Vector = blocking.embed(_ANY_TEXT, model=model) * 0
            return zeros
    vectors = blocking.embed(texts, model=model, mode="document" if mode == "passage" else mode)
    if len(vectors) == 1:
        only: Vector = vectors[0]
        return only
    mean: Vector = vectors.mean(axis=0)
    norm = float((mean**2).sum()) ** 0.5
    return mean / norm if norm else mean


if not TYPE_CHECKING:

    def __getattr__(name: str) -> int:
        # Not a constant: it is that of the model, which is loaded for it.
        if name == "EMBEDDING_DIMENSION":
            return len(blocking.embed(_ANY_TEXT))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def preload_models(
    verbose: bool = False, size: str | None = None, skip_embeddings: bool = False
) -> None:
    """Load the models now rather than at the first request.

    Raises:
        ModelError: a model is unavailable.
    """
    _options(size=size)
    kinds: tuple[Kind, ...] = ("generation",) if skip_embeddings else KINDS

    async def load() -> None:
        await (await default_session()).load(*kinds)

    blocking.run(load)
    if verbose:
        logger.info("loaded the models for %s", " and ".join(kinds))


def get_model_cache_dir() -> str:
    """Where models from Hugging Face are."""
    return str(hub_cache())


@contextmanager
def use_daemon(
    host: str | None = None, port: int | None = None, required: bool = False
) -> Iterator[None]:
    """Does nothing: there is no daemon, the models are loaded once in this process."""
    yield


def _options(**given: Any) -> dict[str, Any]:
    """Options for asteady; refuses what it does not have, unless it is SteadyText's default."""
    for name, (default, remedy) in _NOT_HERE.items():
        if (value := given.pop(name, default)) != default:
            raise refuse(name, value, remedy)
    repo, filename = given.pop("model_repo", None), given.pop("model_filename", None)
    if (repo is None) != (filename is None):
        raise InvalidRequestError("model_repo and model_filename belong together: give both")
    if repo is not None:
        given["model"] = f"hf:{repo}/{filename}"
    if given.get("eos_string") == "":
        del given["eos_string"]
    options = {name: value for name, value in given.items() if value is not None}
    temperature = number("temperature", options.get("temperature", 0), 0, 100)
    return {**_SAMPLING, **options} if temperature else options


def _shown(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    def shown(text: bytes, logprob: float) -> dict[str, Any]:
        return {"token": text.decode(errors="replace"), "bytes": list(text), "logprob": logprob}

    content = [
        {
            **shown(token.token, token.logprob),
            "top_logprobs": [shown(text, logprob) for _, text, logprob in token.top],
        }
        for token in tokens
    ]
    return {"content": content}
