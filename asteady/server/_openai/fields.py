"""Names of a body's fields, and what the library calls them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "max_output_tokens": "max_new_tokens",
    "n_predict": "max_new_tokens",
    "repetition_penalty": "repeat_penalty",
    "guided_choice": "choices",
    "guided_regex": "regex",
    # Not `grammar`, which llama.cpp's server reads in a syntax of its own.
    "lark_grammar": "grammar",
    "guided_json": "schema",
    "json_schema": "schema",
}
# Where a body has none of these.
_USUAL = {
    "max_new_tokens": "max_completion_tokens",
    "schema": "response_format",
    "text": "input",
}


def field_of(option: str, body: Mapping[str, Any]) -> str:
    """The field of a body that an option of the library was read from."""
    found = [name for name, own in RENAMED.items() if own == option and body.get(name) is not None]
    if found:
        return found[-1]
    if option == "schema" and "text" in body:
        return "text.format"
    return _USUAL.get(option, option)
