"""From the fields of a body to the options of a call."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from asteady._base.requests import DEFAULT_SEED
from asteady.server._openai.errors import refused
from asteady.server._openai.fields import RENAMED

_log = logging.getLogger("asteady")

# Fields whose names and meanings are the library's. Those from `top_k` on are no part of OpenAI's
# API, and known from llama.cpp's server and vLLM.
_SAME = (
    "temperature",
    "top_p",
    "seed",
    "stop",
    "logit_bias",
    "presence_penalty",
    "frequency_penalty",
    "top_k",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "chat_template_kwargs",
    "regex",
    "choices",
    "date",
)
# What would be missing from the answer if it were ignored.
_REFUSED = {
    "audio": "models here write text only",
    "function_call": "it has been replaced: give tool_choice",
    "functions": "it has been replaced: give tools",
    "grammar": "grammars of llama.cpp are not read: give response_format, regex or choices",
    "guided_grammar": "grammars are not read: give response_format, regex or choices",
    "lora": "adapters are not read: serve a model that has it merged",
    "prompt_logprobs": "log probabilities are those of the answer: give logprobs",
    "structured_outputs": "give response_format, regex or choices",
    "suffix": "models here write on, and fill no gaps",
    "truncate_prompt_tokens": "a prompt is not cut: shorten it",
    "web_search_options": "there is no search here: give a tool",
}
# Samplers of llama.cpp and vLLM that are not here, and the values that switch them off.
_OFF = {
    "adaptive_target": -1,
    "dry_multiplier": 0,
    "dynatemp_range": 0,
    "ignore_eos": False,
    "length_penalty": 1,
    "min_tokens": 0,
    "mirostat": 0,
    "mirostat_mode": 0,
    "tfs_z": 1,
    "top_n_sigma": -1,
    "use_beam_search": False,
    "xtc_probability": 0,
}
_MOST_CHOICES = 16
_MOST_LOGPROBS = 20


def check_fields(body: Mapping[str, Any], known: frozenset[str]) -> None:
    """Refuse what an answer would lack if it were ignored; ignore other unknown fields.

    Raises:
        ApiError: a field asks for something that is not there.
    """
    for name, reason in _REFUSED.items():
        if body.get(name) is not None:
            raise refused(name, reason)
    for name in body.keys() & _OFF.keys():
        if body[name] is not None and body[name] != _OFF[name]:
            raise refused(name, f"it is not offered: leave it out, or give {_OFF[name]}")
    modalities = body.get("modalities")
    if modalities is not None and modalities != ["text"]:
        raise refused("modalities", 'only ["text"] is there')
    ignored = body.keys() - known - _SAMPLING
    if ignored and _log.isEnabledFor(logging.DEBUG):
        _log.debug("fields of a request are ignored: %s", ", ".join(sorted(ignored)))


_SAMPLING = frozenset(_SAME) | RENAMED.keys() | _OFF.keys()


def sampling_options(body: Mapping[str, Any], most_tokens: int | None) -> dict[str, Any]:
    """How tokens are chosen, and how many. `most_tokens` is for a body that does not say.

    The temperature is the library's 0 if it is left out, so that a request and a call of the
    library have one entry in the cache; it is OpenAI's 1 where the body asks for what is drawn: by
    a seed, by top_p, or by several choices.
    """
    found = {name: body[name] for name in _SAME if body.get(name) is not None}
    for name, own in RENAMED.items():
        if (value := body.get(name)) is not None:
            written = own == "schema" and not isinstance(value, str)
            found[own] = json.dumps(value) if written else value
    if found.get("top_k") == -1:  # vLLM's word for all of them
        found["top_k"] = 0
    if most_tokens is not None:
        found.setdefault("max_new_tokens", most_tokens)
    drawn = any(body.get(name) is not None for name in ("seed", "top_p")) or choices_of(body) > 1
    if drawn:
        found.setdefault("temperature", 1.0)
    if "choices" in found and not isinstance(found["choices"], list):
        raise refused("choices", "a list of texts is needed")
    return found


def choices_of(body: Mapping[str, Any]) -> int:
    """The number of choices that are asked for.

    Raises:
        ApiError: it is none.
    """
    number = body.get("n")
    if number is None:
        return 1
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= _MOST_CHOICES:
        raise refused("n", f"a number from 1 to {_MOST_CHOICES} is needed, not {number!r}"[:200])
    return number


def with_seed_of(options: Mapping[str, Any], index: int) -> dict[str, Any]:
    """The options of one of several choices: each has a seed of its own."""
    seed = options.get("seed", DEFAULT_SEED)
    if index == 0 or not isinstance(seed, int) or isinstance(seed, bool):  # refused as it is
        return dict(options)
    return {**options, "seed": seed + index}


def with_effort(options: Mapping[str, Any], effort: object, name: str) -> dict[str, Any]:
    """The options that tell a chat template how much to reason.

    Raises:
        ApiError: the field `name`, `effort`, is no text.
    """
    if not isinstance(effort, str):
        raise refused(name, f"a text is needed, not {effort!r}"[:200])
    given = options.get("chat_template_kwargs") or {}
    if not isinstance(given, Mapping):  # refused as it is
        return {}
    return {"chat_template_kwargs": {"reasoning_effort": effort, **given}}


def form_options(response_format: object, name: str = "response_format") -> dict[str, Any]:
    """The option for the form that is asked for.

    Raises:
        ApiError: it is none that is known.
    """
    match response_format:
        case None | {"type": "text"}:
            return {}
        case {"type": "json_object"}:
            return {"schema": '{"type": "object"}'}
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return {"schema": json.dumps(schema)}
        case {"type": "json_schema", "schema": dict(schema)}:
            return {"schema": json.dumps(schema)}
    raise refused(
        name,
        'it is {"type": "text"}, {"type": "json_object"} or {"type": "json_schema", "json_schema": '
        '{"name": ..., "schema": {...}}}',
    )


def tool_and_form_options(
    body: Mapping[str, Any], form: object, name: str = "response_format"
) -> dict[str, Any]:
    """The options for the tools, and for the form of the text, which the body has as `name`.

    Where a call is asked for, there is no text that could have a form.

    Raises:
        ApiError: one is not allowed.
    """
    tools, options = _tool_options(body), form_options(form, name)
    choice = tools.get("tool_choice", "auto") if "tools" in tools else "none"
    if options and choice == "auto":
        raise refused(
            name,
            "an answer that may call tools has no form here: leave one of the two out, or give the"
            ' tool_choice "none" or "required"',
        )
    return tools if choice not in ("auto", "none") else {**tools, **options}


def _tool_options(body: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    tools, choice = body.get("tools"), body.get("tool_choice")
    if tools is not None and not isinstance(tools, list):
        raise refused("tools", "a list is needed")
    if tools:
        found["tools"] = tools
    if choice is not None:
        if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
            raise refused("tool_choice", "allowed_tools is not there: give these tools only")
        found["tool_choice"] = choice
    return found


def wants_usage(body: Mapping[str, Any]) -> bool:
    """Whether the last event of a stream is to tell the tokens.

    Raises:
        ApiError: the field is not allowed.
    """
    options = body.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, Mapping):
        raise refused("stream_options", "an object is needed")
    return flag(options, "include_usage")


def flag(body: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """
    Raises:
        ApiError: it is neither true nor false.
    """
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise refused(name, f"true or false is needed, not {value!r}"[:200])
    return value


def logprobs_of(body: Mapping[str, Any]) -> int | None:
    """How many alternatives of each token are asked for; None if no log probabilities are.

    Raises:
        ApiError: the two fields do not fit each other.
    """
    top = body.get("top_logprobs")
    if top is not None and (
        isinstance(top, bool) or not isinstance(top, int) or not 0 <= top <= _MOST_LOGPROBS
    ):
        raise refused(
            "top_logprobs", f"a number from 0 to {_MOST_LOGPROBS} is needed, not {top!r}"[:200]
        )
    if not flag(body, "logprobs"):
        if top:
            raise refused("top_logprobs", "logprobs must be true for it")
        return None
    return top or 0
