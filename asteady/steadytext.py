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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, Literal, overload

import asteady.blocking as blocking
from asteady._base.errors import InvalidRequestError
from asteady._base.options import shows_options_of
from asteady._base.requests import (
    DEFAULT_MAX_NEW_TOKENS as GENERATION_MAX_NEW_TOKENS,
    DEFAULT_SEED,
    KINDS,
    Kind,
    TokenLogprob,
    Vector,
)
from asteady._base.validation import refuse
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
    is_cached,
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

logger = logging.getLogger("asteady")

# How many alternatives of each token `return_logprobs` has.
_ALTERNATIVES = 5

# Arguments of SteadyText for what asteady has not: the value that asks for nothing, and the remedy.
_STRUCTURED = "answers are plain text"
_NOT_HERE: dict[str, tuple[object, str]] = {
    "size": (None, "there are no sizes: give model=, or set ASTEADY_GENERATION_MODEL"),
    "response_format": (None, _STRUCTURED),
    "schema": (None, _STRUCTURED),
    "regex": (None, _STRUCTURED),
    "choices": (None, _STRUCTURED),
    "return_pydantic": (False, _STRUCTURED),
    "unsafe_mode": (False, "models are local"),
    "options": (None, "models are local"),
    "include_logprobs": (False, "use generate(..., return_logprobs=True)"),
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
        eos_string: end before this string; "[EOS]" adds none to the model's own end.
        options: seed=42, temperature=0.0, model=None, and the others of `asteady.GenerateOptions`;
            ``model_repo="owner/repo", model_filename="file.gguf"`` is a model on Hugging Face.

    Raises:
        InvalidRequestError: an argument is not allowed, or asks for what asteady does not have.
        AsteadyError: as `asteady.Session.generate`.
    """
    options = _options(eos_string=eos_string, max_new_tokens=max_new_tokens, **options)
    if not return_logprobs:
        return blocking.generate(prompt, **options)
    answer = blocking.complete(prompt, logprobs=_ALTERNATIVES, **options)
    return answer.text, {"content": [_shown(token) for token in answer.logprobs or ()]}


@shows_options_of(blocking.generate)
def generate_iter(
    prompt: str, max_new_tokens: int | None = None, eos_string: str = "[EOS]", **options: Any
) -> Iterator[str]:
    """The chunks of `generate`, as they are computed; options and errors as there.

    Closing the generator, or dropping it, stops the computation unless somebody else waits.
    """
    options = _options(eos_string=eos_string, max_new_tokens=max_new_tokens, **options)
    return blocking.generate_iter(prompt, **options)


def embed(
    text_input: str | Sequence[str],
    seed: int = DEFAULT_SEED,
    model: str | None = None,
    unsafe_mode: bool = False,
    mode: Literal["query", "passage", "document"] | None = None,
) -> Vector:
    """Embed a text, or several as one: the mean of their vectors, with L2 norm 1.

    Returns a float32 array of shape (dimensions,). `seed` changes nothing; "passage" is another
    word for "document".

    Raises:
        InvalidRequestError: an argument is not allowed.
        AsteadyError: as `asteady.Session.embed`.
    """
    _options(unsafe_mode=unsafe_mode)
    vectors = blocking.embed(
        text_input, model=model, mode="document" if mode == "passage" else mode
    )
    if isinstance(text_input, str):
        return vectors
    mean: Vector = vectors.mean(axis=0)
    norm = float((mean**2).sum()) ** 0.5
    return mean / norm if norm else mean


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
    return {name: value for name, value in given.items() if value is not None}


def _shown(token: TokenLogprob) -> dict[str, Any]:
    def shown(text: bytes, logprob: float) -> dict[str, Any]:
        return {"token": text.decode(errors="replace"), "bytes": list(text), "logprob": logprob}

    top = [shown(text, logprob) for _, text, logprob in token.top]
    return {**shown(token.token, token.logprob), "top_logprobs": top}
