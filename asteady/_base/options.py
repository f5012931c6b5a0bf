"""The options of calls and of sessions, as types, and hints for names that are none of them."""

from __future__ import annotations

import datetime
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict, TypeVar

from asteady._base.errors import InvalidRequestError
from asteady._base.messages import AnyMessage
from asteady._base.public import public
from asteady._base.requests import EmbedMode, FloatLike, IntLike, LogitBias
from asteady._base.tools import AnyTool


@public
class GenerateOptions(TypedDict, total=False):
    """The options of `Session.generate`, `complete`, `stream` and `is_cached`; None stands for the
    default of each. `TypedOptions` has two more."""

    messages: Sequence[AnyMessage] | None
    """Instead of a prompt: ``[{"role": "user", "content": "Hello"}]``, and what else OpenAI's API
    takes (docs/messages.md). A last message of the assistant is continued."""
    raw: bool | None
    """Give the prompt to the model as it is, without its chat template. Special tokens in it count,
    so keep your users' text out of it."""
    seed: IntLike | None
    """0 to 4294967294; decides among likely tokens when the temperature is above 0. None is the
    default, 42, and not a random one."""
    max_new_tokens: IntLike | None
    """Stop after so many tokens (finish_reason "length"); the context may end sooner. A character
    whose last bytes are missing then is left out of the text, but its tokens count."""
    temperature: FloatLike | None
    """0 takes the most likely token each time; above, tokens are drawn. Below 0.000001 counts as
    0."""
    top_k: IntLike | None
    """Draw from the k most likely tokens; 0 from all."""
    top_p: FloatLike | None
    """Draw from the most likely tokens that together have this probability; 1 from all."""
    min_p: FloatLike | None
    """Drop tokens less likely than this share of the most likely one's probability."""
    typical_p: FloatLike | None
    """Locally typical sampling (Meister et al. 2022); 1 is off."""
    repeat_penalty: FloatLike | None
    """Divide the logits of tokens seen in the last 64 by this; 1 is off."""
    presence_penalty: FloatLike | None
    """Subtract this from the logits of tokens seen in the last 64."""
    frequency_penalty: FloatLike | None
    """Subtract this, times how often they were seen in the last 64, from tokens' logits."""
    logit_bias: LogitBias | None
    """Add to the logits of these token ids, -100 to 100; the ids may be texts, as in JSON."""
    stop: str | Sequence[str] | None
    """End before the first of these strings; it is not part of the text. At most 100 strings of at
    most 1000 characters."""
    eos_string: str | None
    """One more string to end before, by SteadyText's name; "[EOS]" adds none. The model's own end
    counts always."""
    logprobs: IntLike | None
    """Record each token's log probability, and that of so many alternatives."""
    chat_template_kwargs: Mapping[str, Any] | None
    """Variables of the model's chat template, such as ``{"enable_thinking": False}``."""
    date: str | datetime.date | None
    """The date that a chat template may write: "today", or an ISO date. Default: the setting
    `date`."""
    regex: str | None
    """The whole answer matches this regular expression, in Rust's syntax."""
    grammar: str | None
    """The answer follows this grammar, in Lark's syntax as llguidance reads it."""
    tools: Iterable[AnyTool] | None
    """What the model may call: functions with type hints, pydantic models, or definitions as
    OpenAI's API has them. The calls are the answer's `tool_calls` (docs/tools.md)."""
    tool_choice: str | Mapping[str, Any] | None
    """With "auto" the answer is text, or calls, with "required" at least one call, with the name of
    a tool a call of that one; "none" is as if there were no tools."""


@public
class TypedOptions(GenerateOptions, total=False):
    """`GenerateOptions`, and those that give the answer a type."""

    schema: Any
    """The answer is JSON for this type (of pydantic, a dataclass, an attrs class, a TypedDict,
    ``int``, ``list[...]``), or by this JSON schema; see docs/typed.md."""
    choices: Any
    """The answer is one of these texts, or of the members of this Enum, or of these members."""


@public
class EmbedOptions(TypedDict, total=False):
    """The options of `Session.embed`."""

    truncate: bool | None
    """Cut text that is longer than the model's context instead of raising PromptTooLongError."""
    dimensions: IntLike | None
    """Keep only the first so many components, normalised again (Matryoshka models)."""
    mode: EmbedMode | None
    """Put the model's prefix for a query or a document before the text."""


@public
class SettingsOptions(TypedDict, total=False):
    """The arguments of `Session` that set single fields of `Settings`; see there."""

    profile: str | None
    generation_cache_capacity: int | None
    generation_cache_max_size_mb: float | None
    embedding_cache_capacity: int | None
    embedding_cache_max_size_mb: float | None
    memory_max_size_mb: float | None
    cache_policy: str | None
    disable_cache: bool | None
    keep_requests_bytes: int | None
    store_timeout_s: float | None
    cache_dir: str | os.PathLike[str] | None
    generation_model: str | os.PathLike[str] | None
    embedding_model: str | os.PathLike[str] | None
    workers: int | None
    cores: int | None
    threads: int | None
    gpu_layers: int | None
    batch_width: int | None
    probe: bool | None
    max_pending: int | None
    form_max_characters: int | None
    form_max_states: int | None
    context_tokens: int | None
    context_memory_mb: float | None
    prefix_max_size_mb: float | None
    idle_unload_s: float | None
    shared_cache: str | None
    shared_cache_timeout_s: float | None
    shared_cache_lease_s: float | None
    shared_cache_any_cpu: bool | None
    date: str | datetime.date | None


# What users of llama-cpp-python, Ollama, OpenAI's client, vLLM, transformers, SteadyText and
# caching libraries try first.
_HINTS = {
    "max_tokens max_completion_tokens max_output_tokens n_predict num_predict": (
        "it is called 'max_new_tokens' here"
    ),
    "temp": "it is called 'temperature' here",
    "repetition_penalty penalty_repeat": "it is called 'repeat_penalty' here",
    "penalty_freq": "it is called 'frequency_penalty' here",
    "penalty_present present_penalty": "it is called 'presence_penalty' here",
    "typ_p": "it is called 'typical_p' here",
    "stop_sequences stop_strings stop_words": "it is called 'stop' here",
    "top_logprobs": "give their number as 'logprobs'",
    "random_state random_seed": "it is called 'seed' here",
    "response_format response_model response_schema json_schema output_type guided_json": (
        "it is called 'schema' here: a type, or a JSON schema"
    ),
    "guided_choice literals": "it is called 'choices' here",
    "guided_regex pattern": "it is called 'regex' here",
    "guided_grammar gbnf ebnf lark": "it is called 'grammar' here, in Lark's syntax",
    "system_prompt system instructions": (
        'give messages=[{"role": "system", ...}, ...], or use session.prefix(text)'
    ),
    "n_ctx num_ctx context_length max_model_len": (
        "the context length is a setting: Session(context_tokens=...)"
    ),
    "template_kwargs template_options chat_template_options": (
        "it is called 'chat_template_kwargs' here"
    ),
    "functions function_call": "give tools=[...] and tool_choice",
    "parallel_tool_calls": "the name of a tool as tool_choice makes one call",
    "enable_thinking": 'give chat_template_kwargs={"enable_thinking": ...}',
    "reasoning_effort": 'give chat_template_kwargs={"reasoning_effort": ...}',
    "stream": "use session.stream(...)",
    "timeout": "use asyncio.timeout() around the call",
    "do_sample": "a temperature above 0 samples",
    "mirostat mirostat_mode mirostat_tau mirostat_eta dry_multiplier dry_base dry_allowed_length"
    " dry_penalty_last_n dry_sequence_breakers xtc_probability xtc_threshold top_n_sigma tfs tfs_z"
    " dynatemp_range dynatemp_exponent adaptive_target adaptive_decay samplers logits_processor"
    " no_repeat_ngram_size num_beams best_of": (
        "that sampler is not offered: docs/sampling.md has those that are"
    ),
    "repeat_last_n penalty_last_n last_n_tokens_size": "the penalties count the last 64 tokens",
    "ignore_eos min_tokens min_new_tokens": (
        "give logit_bias={id of the model's end token: -100}, which forbids its own end"
    ),
    "n_probs return_logprobs": "it is called 'logprobs' here",
    "n": "make one call for each seed",
    "use_cache no_cache cache_prompt": 'use cache="bypass"',
    "ttl expire expiration": "answers never become stale: none expires",
}
_SETTINGS_HINTS = {
    **_HINTS,
    "model model_path model_name": "a session has two: 'generation_model' and 'embedding_model'",
    "n_ctx num_ctx context_length max_model_len": "it is called 'context_tokens' here",
    "n_threads num_threads num_thread": "it is called 'threads' here",
    "n_gpu_layers num_gpu": "it is called 'gpu_layers' here",
    "max_workers n_workers num_workers n_parallel": "it is called 'workers' here",
    "cache_size maxsize max_entries capacity": (
        "there are two: 'generation_cache_capacity' and 'embedding_cache_capacity'"
    ),
    "cache_path cache_directory directory": "it is called 'cache_dir' here",
    "redis redis_url redis_uri valkey valkey_url": "it is called 'shared_cache' here",
    "keep_alive": "it is called 'idle_unload_s' here",
}


def check_options(call: str, options: Mapping[str, object], known: Iterable[str]) -> None:
    """Refuse option names that `call` does not have.

    Raises:
        InvalidRequestError: an option is unknown; the message has a hint for likely names.
    """
    for name in options:
        if name not in known:
            hint = _hint_for(name, known, _HINTS)
            raise InvalidRequestError(f"{call}() has no option {name!r}; {hint}")


def unknown_setting(name: str, known: Iterable[str]) -> str:
    """The message for an argument of `Session` that is no setting."""
    generating = TypedOptions.__annotations__.keys() | EmbedOptions.__annotations__
    if name in generating:
        hint = "it is an option of each call, not of the session"
    else:
        hint = _hint_for(name, known, _SETTINGS_HINTS)
    return f"there is no setting {name!r}; {hint}"


def _hint_for(name: str, known: Iterable[str], hints: Mapping[str, str]) -> str:
    """The remedy for an unknown name: its hint, the name that it resembles, or all names."""
    import difflib  # only for this message

    names = sorted(known)
    # A longer name of ours that begins so is what was meant: "timeout" of "timeout_s".
    near = [own for own in names if own.startswith(name + "_")]
    if not near:
        for theirs, hint in hints.items():
            if name in theirs.split():
                return hint
    near = near or difflib.get_close_matches(name, names, n=1, cutoff=0.75)
    return f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(names)}"


F = TypeVar("F", bound=Callable[..., Any])


def shows_options_of(source: Callable[..., Any], *more: inspect.Parameter) -> Callable[[F], F]:
    """Have `inspect.signature`, `help` and completion show the options that ``**options`` takes.

    They are the keyword parameters of `source`, with their defaults, and `more`. Explicit keyword
    parameters would do the same, but binding twenty of them would double the price of a warm hit.
    """

    def decorate(fn: F) -> F:
        signature = inspect.signature(fn)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        names = {p.name for p in own}
        options = [
            p
            for p in (*inspect.signature(source).parameters.values(), *more)
            if p.kind is p.KEYWORD_ONLY and p.name not in names
        ]
        fn.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
        return fn

    return decorate
