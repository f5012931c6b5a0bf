"""Requests and answers: frozen records, validated once, and the keys that name them.

Nothing here does I/O or reads a clock. A request is *canonical*: two ways to say the same thing
(``stop="x"`` and ``stop=["x"]``, ``temperature=0`` and ``0.0``) become equal records, and equal
records, with the same fingerprint, have equal keys.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

import attrs

from asteady._base.errors import InvalidRequestError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector: TypeAlias = NDArray[np.float32]

Key: TypeAlias = str
"""64 hexadecimal digits: the SHA-256 of a canonical request and the fingerprint of its engine."""

FinishReason: TypeAlias = Literal["stop", "length"]
EmbedMode: TypeAlias = Literal["query", "document"]

# llama.cpp reads the largest 32-bit number as "choose a seed at random".
MAX_SEED = 2**32 - 2
MAX_LOGPROBS = 100
# What SteadyText calls the model's own end.
OWN_END = "[EOS]"
# A path is stored with each entry that its namespace holds, and printed in tables.
MAX_NAMESPACE = 200
DEFAULT_SEED = 42
DEFAULT_MAX_NEW_TOKENS = 512

# Written into every key. Raise it when the meaning of a field changes.
_KEY_VERSION = 1


class GenerateOptions(TypedDict, total=False):
    """The options of `Session.generate`, `complete`, `stream` and `is_cached`."""

    messages: Sequence[Mapping[str, str]] | None
    """Instead of a prompt: ``[{"role": "user", "content": "Hello"}]``."""
    raw: bool
    """Give the prompt to the model as it is, without its chat template."""
    seed: int
    """0 to 4294967294; decides among likely tokens when the temperature is above 0."""
    max_new_tokens: int
    """Stop after so many tokens (finish_reason "length"); the context may end sooner."""
    temperature: float
    """0 takes the most likely token each time; above, tokens are drawn."""
    top_k: int
    """Draw from the k most likely tokens; 0 from all."""
    top_p: float
    """Draw from the most likely tokens that together have this probability; 1 from all."""
    min_p: float
    """Drop tokens less likely than this share of the most likely one's probability."""
    typical_p: float
    """Locally typical sampling (Meister et al. 2022); 1 is off."""
    repeat_penalty: float
    """Divide the logits of tokens seen in the last 64 by this; 1 is off."""
    presence_penalty: float
    """Subtract this from the logits of tokens seen in the last 64."""
    frequency_penalty: float
    """Subtract this, times how often they were seen in the last 64, from tokens' logits."""
    logit_bias: Mapping[int, float] | None
    """Add to the logits of these token ids."""
    stop: str | Sequence[str] | None
    """End before the first of these strings; it is not part of the text."""
    eos_string: str
    """One more string to end before, by SteadyText's name; "[EOS]" adds none. The model's own end
    counts always."""
    logprobs: int | None
    """Record each token's log probability, and that of so many alternatives."""


class EmbedOptions(TypedDict, total=False):
    """The options of `Session.embed`."""

    truncate: bool
    """Cut text that is longer than the model's context instead of raising PromptTooLongError."""
    dimensions: int | None
    """Keep only the first so many components, normalised again (Matryoshka models)."""
    mode: EmbedMode | None
    """Put the model's prefix for a query or a document before the text."""


def _refuse(name: str, value: object, allowed: str) -> InvalidRequestError:
    shown = repr(value)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    return InvalidRequestError(f"{name}={shown} is not allowed: {allowed}")


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _refuse(name, value, f"a str is needed, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise _refuse(
            name, value[exc.start : exc.end], "text must be valid Unicode, without lone surrogates"
        ) from None
    # A subclass of str may compare or print as it likes; from here on it is plain text.
    return value if type(value) is str else str.__str__(value)


def _whole(name: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _refuse(name, value, f"an int is needed, not {type(value).__name__}")
    if not low <= value <= high:
        raise _refuse(name, value, f"a whole number from {low} to {high}")
    return int(value)


def _number(name: str, value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refuse(name, value, f"a number is needed, not {type(value).__name__}")
    if not (math.isfinite(value) and low <= value <= high):
        raise _refuse(name, value, f"a number from {low:g} to {high:g}")
    return float(value) + 0.0  # + 0.0 turns -0.0 into 0.0: one way to say zero


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _refuse(name, value, "True or False")
    return value


def _stops(value: object, eos_string: object) -> tuple[str, ...]:
    more = _text("eos_string", eos_string)
    if not more:
        raise _refuse("eos_string", more, f"at least one character, or {OWN_END!r} for none")
    if value is None:
        value = ()
    elif isinstance(value, str):
        value = (value,)
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        raise _refuse("stop", value, "a str, or a sequence of them")
    # Which of two stop strings comes first in the list cannot change an answer.
    stops = sorted({_text("stop", item) for item in value})
    if "" in stops:
        raise _refuse("stop", "", "a stop string has at least one character")
    return tuple(stops if more == OWN_END else sorted({*stops, more}))


def _messages(value: object) -> tuple[tuple[str, str], ...]:
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise _refuse("messages", value, 'a list like [{"role": "user", "content": "Hello"}]')
    messages = []
    for index, message in enumerate(value):
        name = f"messages[{index}]"
        if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
            raise _refuse(name, message, 'a mapping with just the keys "role" and "content"')
        role = _text(f"{name}['role']", message["role"])
        if not role:
            raise _refuse(f"{name}['role']", role, 'a role such as "system", "user", "assistant"')
        messages.append((role, _text(f"{name}['content']", message["content"])))
    if not messages:
        raise _refuse("messages", value, "at least one message is needed")
    return tuple(messages)


def _biases(value: object) -> tuple[tuple[int, float], ...]:
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        raise _refuse("logit_bias", value, "a mapping from token id to a number from -100 to 100")
    return tuple(
        sorted(
            (
                _whole("logit_bias token", token, 0, 2**31 - 1),
                _number(f"logit_bias[{token!r}]", bias, -100, 100),
            )
            for token, bias in value.items()
        )
    )


def check_options(call: str, options: Mapping[str, object], known: Iterable[str]) -> None:
    """Refuse option names that `call` does not have, with the nearest one that it has.

    Raises:
        InvalidRequestError: an option is unknown.
    """
    names = sorted(known)
    for name in options:
        if name not in names:
            import difflib  # only for this message

            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(names)}"
            raise InvalidRequestError(f"{call}() has no option {name!r}; {hint}")


def namespace_path(value: object) -> str:
    """The path of a namespace, if it is one: names with single slashes between them.

    Raises:
        InvalidRequestError: it is not.
    """
    path = _text("namespace", value)
    names = path.split("/")
    if (
        len(path) > MAX_NAMESPACE
        or not path.isprintable()
        or not all(name and name == name.strip() for name in names)
    ):
        raise _refuse(
            "namespace",
            value,
            'names with single slashes between them, as in "emails/marketing": none of them empty,'
            f" printable, without spaces at their ends, {MAX_NAMESPACE} characters in all",
        )
    return path


@attrs.frozen(kw_only=True)
class GenerateRequest:
    """What was asked of a generation model, validated and canonical.

    Build one with `GenerateRequest.of`; the fields hold what it made of its arguments.
    """

    prompt: str | None
    messages: tuple[tuple[str, str], ...]
    raw: bool
    seed: int
    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: tuple[tuple[int, float], ...]
    stop: tuple[str, ...]
    logprobs: int | None

    @classmethod
    def of(
        cls,
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, str]] | None = None,
        raw: bool = False,
        seed: int = DEFAULT_SEED,
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        typical_p: float = 1.0,
        repeat_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        logit_bias: Mapping[int, float] | None = None,
        stop: str | Sequence[str] | None = None,
        eos_string: str = OWN_END,
        logprobs: int | None = None,
    ) -> GenerateRequest:
        """Validate the arguments of `Session.generate` and put them into canonical form.

        Raises:
            InvalidRequestError: an argument has the wrong type or lies outside its range.
        """
        if (prompt is None) == (messages is None):
            raise InvalidRequestError(
                "give either a prompt or messages=[...]: "
                + ("neither was given" if prompt is None else "both were given")
            )
        if prompt is not None:
            prompt = _text("prompt", prompt)
            if not prompt:
                raise _refuse("prompt", prompt, "it must have at least one character")
        if messages is not None and raw:
            raise _refuse("raw", raw, "messages need the model's chat template; raw skips it")
        return cls(
            prompt=prompt,
            messages=() if messages is None else _messages(messages),
            raw=_flag("raw", raw),
            seed=_whole("seed", seed, 0, MAX_SEED),
            max_new_tokens=_whole("max_new_tokens", max_new_tokens, 1, 2**31 - 1),
            temperature=_number("temperature", temperature, 0, 100),
            top_k=_whole("top_k", top_k, 0, 2**31 - 1),
            top_p=_number("top_p", top_p, 0, 1),
            min_p=_number("min_p", min_p, 0, 1),
            typical_p=_number("typical_p", typical_p, 0, 1),
            repeat_penalty=_number("repeat_penalty", repeat_penalty, 0.01, 10),
            presence_penalty=_number("presence_penalty", presence_penalty, -10, 10),
            frequency_penalty=_number("frequency_penalty", frequency_penalty, -10, 10),
            logit_bias=_biases(logit_bias),
            stop=_stops(stop, eos_string),
            logprobs=None if logprobs is None else _whole("logprobs", logprobs, 0, MAX_LOGPROBS),
        )

    def key(self, fingerprint: str) -> Key:
        """The key of this request's answer by the engine with this fingerprint."""
        return _digest("generate", fingerprint, attrs.astuple(self, recurse=False))


@attrs.frozen(kw_only=True)
class EmbedRequest:
    """What was asked of an embedding model, validated and canonical. Build one with `of`."""

    text: str
    truncate: bool
    dimensions: int | None
    mode: EmbedMode | None

    @classmethod
    def of(
        cls,
        text: str,
        *,
        truncate: bool = False,
        dimensions: int | None = None,
        mode: EmbedMode | None = None,
    ) -> EmbedRequest:
        """Validate the arguments of `Session.embed` for one text.

        Raises:
            InvalidRequestError: an argument has the wrong type or lies outside its range.
        """
        if mode not in (None, "query", "document"):
            raise _refuse("mode", mode, '"query", "document" or None')
        return cls(
            text=_text("text", text),
            truncate=_flag("truncate", truncate),
            dimensions=None if dimensions is None else _whole("dimensions", dimensions, 1, 2**20),
            mode=mode,
        )

    def key(self, fingerprint: str) -> Key:
        """The key of this request's answer by the engine with this fingerprint."""
        return _digest("embed", fingerprint, attrs.astuple(self, recurse=False))


def _digest(kind: str, fingerprint: str, fields: tuple[Any, ...]) -> Key:
    # repr of nested tuples of str, int, float, bool and None reads back as an equal value of equal
    # types, so no two different requests have the same one, whatever their text contains.
    described = repr((_KEY_VERSION, kind, fingerprint, fields))
    return hashlib.sha256(described.encode()).hexdigest()


@attrs.frozen(kw_only=True)
class TokenLogprob:
    """The natural logarithm of one token's probability, before temperature and the other filters.

    `top` holds the most likely tokens at this place as (token id, bytes, logprob), best first.
    """

    token_id: int
    token: bytes
    logprob: float
    top: tuple[tuple[int, bytes, float], ...] = ()


@attrs.frozen(kw_only=True)
class Completion:
    """The immutable answer to a `GenerateRequest`.

    ``"".join(chunks) == text``; `cost_s` is what computing it took, in seconds of one worker;
    `cached` tells whether this caller got it from the cache.
    """

    text: str
    chunks: tuple[str, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    logprobs: tuple[TokenLogprob, ...] | None = None
    seed: int
    model: str
    fingerprint: str
    cost_s: float
    cached: bool = False

    def __str__(self) -> str:
        return self.text


@attrs.frozen(kw_only=True, eq=False)
class Embedding:
    """The immutable answer to an `EmbedRequest`.

    `vector` is a read-only float32 array of shape (dimensions,) with L2 norm 1; `truncated` tells
    whether text was cut to the model's context.
    """

    vector: Vector
    tokens: int
    truncated: bool = False
    model: str
    fingerprint: str
    cost_s: float
    cached: bool = False
