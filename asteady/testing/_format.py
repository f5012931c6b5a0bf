"""Recorded answers as text, in TOML: sorted, one fact a line, and text as it reads.

A request is written by its fields that differ from the defaults. An answer's text stands in full,
line by line, and its chunks as their lengths; what changes from run to run (time, fingerprint) is
left out. So a change of a model shows in a diff as the lines that read differently.
"""

from __future__ import annotations

import base64
import difflib
import re
import textwrap
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import attrs

from asteady._base import errors as _errors
from asteady._base.errors import AsteadyError
from asteady._base.public import public
from asteady._base.requests import (
    Completion,
    Embedding,
    EmbedRequest,
    GenerateRequest,
    Kind,
    TokenLogprob,
)
from asteady._engine.api import Answer, Request

# Raise it when a default of a request changes: what is not written would mean something else.
VERSION = 1

_HEADER = """\
# Answers of language models, for tests; written by `pytest --asteady-record`.
"""


_REFUSALS: Mapping[str, type[AsteadyError]] = {
    name: error
    for name, error in vars(_errors).items()
    if isinstance(error, type) and issubclass(error, AsteadyError)
}


@public
class RecordingError(AsteadyError):
    """A file of recorded answers cannot be read."""


@attrs.frozen
class Refusal:
    """The error that a request met instead of an answer, by its name in `asteady`."""

    error: str = attrs.field(validator=attrs.validators.in_(_REFUSALS))
    message: str

    def raised(self) -> AsteadyError:
        """The error, made anew."""
        return _REFUSALS[self.error](self.message)


@attrs.frozen
class Asked:
    """What was asked of which model. The model is named as the program named it."""

    kind: Kind
    model: str
    request: Request

    def __str__(self) -> str:
        return "\n".join(_asked_lines(self))


Recorded: TypeAlias = dict[Asked, Answer | Refusal]


def kind_of(request: Request) -> Kind:
    return "generation" if isinstance(request, GenerateRequest) else "embedding"


def nearest(asked: Asked, among: Iterable[Asked]) -> Asked | None:
    """The most similar of the same kind, as text; one of the same model if there is any."""
    same = [other for other in among if other.kind == asked.kind]
    same = [other for other in same if other.model == asked.model] or same
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(str(asked))
    best, best_ratio = None, -1.0
    for other in same:
        matcher.set_seq1(str(other))
        # Each bound is cheaper than the next.
        if matcher.real_quick_ratio() > best_ratio and matcher.quick_ratio() > best_ratio:
            ratio = matcher.ratio()
            if ratio > best_ratio:
                best, best_ratio = other, ratio
    return best


# -- writing -------------------------------------------------------------------------------------


def dumps(recorded: Recorded) -> str:
    """The whole file; the same for the same answers, in whatever order they came."""
    blocks = [_HEADER + f"version = {VERSION}\n"]
    for asked in sorted(recorded, key=lambda asked: (asked.kind, asked.model, str(asked))):
        blocks.append("\n".join(_block(asked, recorded[asked])) + "\n")
    return "\n".join(blocks)


def _block(asked: Asked, answer: Answer | Refusal) -> list[str]:
    lines = [f"[[{asked.kind}]]", *_asked_lines(asked)]
    if isinstance(answer, Refusal):
        return [
            *lines,
            f"[{asked.kind}.refused]",
            f"error = {_string(answer.error)}",
            f"message = {_string(answer.message)}",
        ]
    lines.append(f"[{asked.kind}.answer]")
    if isinstance(answer, Embedding):
        encoded = base64.b64encode(answer.vector.astype("<f4").tobytes()).decode()
        lines += [f"tokens = {answer.tokens}"]
        lines += ["truncated = true"] if answer.truncated else []
        return [*lines, 'vector = """', *textwrap.wrap(encoded, 88), '"""']
    lines += [
        f"text = {_string(answer.text)}",
        *_wrapped("chunks", [str(len(chunk)) for chunk in answer.chunks]),
        f"finish_reason = {_string(answer.finish_reason)}",
        f"prompt_tokens = {answer.prompt_tokens}",
        f"completion_tokens = {answer.completion_tokens}",
    ]
    if answer.logprobs is not None:
        lines += ["logprobs = [", *(f"    {_value(_flat(t))}," for t in answer.logprobs), "]"]
    return lines


def _asked_lines(asked: Asked) -> list[str]:
    lines = [f"model = {_string(asked.model)}"]
    for field in attrs.fields(type(asked.request)):
        value = getattr(asked.request, field.name)
        if value != _DEFAULTS[asked.kind].get(field.name, _NOTHING):
            if field.name == "messages":
                lines += ["messages = [", *(f"    {_value(message)}," for message in value), "]"]
            else:
                lines.append(f"{field.name} = {_value(value)}")
    return lines


_NOTHING = object()
_DEFAULTS: Mapping[Kind, Mapping[str, Any]] = {
    "generation": {
        **attrs.asdict(GenerateRequest.of("-"), recurse=False),
        "prompt": None,  # written when there is one; so is the text below, also when it is empty
    },
    "embedding": {**attrs.asdict(EmbedRequest.of("-"), recurse=False), "text": _NOTHING},
}


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _string(value)
    assert isinstance(value, tuple)
    return f"[{', '.join(map(_value, value))}]"


def _wrapped(name: str, values: Sequence[str]) -> list[str]:
    line = f"{name} = [{', '.join(values)}]"
    if len(line) <= 88:
        return [line]
    rows = textwrap.wrap(", ".join(values) + ",", 84)
    return [f"{name} = [", *(f"    {row}" for row in rows), "]"]


def _flat(token: TokenLogprob) -> tuple[object, ...]:
    top = tuple((token_id, name.hex(), logprob) for token_id, name, logprob in token.top)
    return (token.token_id, token.token.hex(), token.logprob, top)


def _string(text: str) -> str:
    # Escaped: what TOML does not allow bare, what it would read as another line ending, and spaces
    # at the end of a line, which editors remove.
    text = text.replace("\\", "\\\\")
    text = re.sub(r"[\x00-\x09\x0b-\x1f\x7f]", lambda found: f"\\u{ord(found[0]):04x}", text)
    if "\n" not in text:
        return '"' + text.replace('"', '\\"') + '"'
    text = re.sub(r'"(?="|\Z)', lambda _: '\\"', text)
    text = re.sub(r" (?=$)", r"\\u0020", text, flags=re.M)
    return f'"""\n{text}"""'


# -- reading -------------------------------------------------------------------------------------


def loads(text: str, where: object) -> Recorded:
    """What `dumps` wrote.

    Raises:
        RecordingError: it is something else; the message names `where`.
    """
    try:
        tables = tomllib.loads(text)
        if tables["version"] != VERSION:
            raise ValueError(f"it has version {tables['version']!r}, not {VERSION}")
        recorded: Recorded = {}
        for table in tables.get("generation", ()):
            _read(recorded, "generation", table)
        for table in tables.get("embedding", ()):
            _read(recorded, "embedding", table)
        return recorded
    except (ValueError, LookupError, TypeError, AsteadyError) as exc:
        raise RecordingError(
            f"the recorded answers in {where} cannot be read ({type(exc).__name__}: {exc}); delete "
            "the file, and record them again with --asteady-record"
        ) from exc


def _read(recorded: Recorded, kind: Kind, table: dict[str, Any]) -> None:
    model, answer, refused = (table.pop(name, None) for name in ("model", "answer", "refused"))
    request: Request
    if kind == "generation":
        for name, convert in (("messages", _messages), ("logit_bias", dict)):
            if name in table:
                table[name] = convert(table[name])
        request = GenerateRequest.of(**table)
    else:
        request = EmbedRequest.of(**table)
    asked = Asked(kind, str(model), request)
    if refused is not None:
        recorded[asked] = Refusal(**refused)
    elif isinstance(request, GenerateRequest):
        recorded[asked] = _completion(asked.model, request, **answer)
    else:
        recorded[asked] = _embedding(asked.model, **answer)


def _messages(messages: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in messages]


def _completion(
    model: str,
    request: GenerateRequest,
    *,
    text: str,
    chunks: list[int],
    logprobs: list[Any] | None = None,
    **rest: Any,
) -> Completion:
    cut, start = [], 0
    for length in chunks:
        cut.append(text[start : start + length])
        start += length
    if "".join(cut) != text:
        raise ValueError(f"the chunks {chunks} do not make up the text {text!r}")
    return Completion(
        text=text,
        chunks=tuple(cut),
        logprobs=None if logprobs is None else tuple(map(_token, logprobs)),
        seed=request.seed,
        model=model,
        fingerprint="",
        cost_s=_cost_s(len(chunks)),
        **rest,
    )


def _token(flat: Sequence[Any]) -> TokenLogprob:
    token_id, token, logprob, top = flat
    return TokenLogprob(
        token_id=token_id,
        token=bytes.fromhex(token),
        logprob=logprob,
        top=tuple((other, bytes.fromhex(name), number) for other, name, number in top),
    )


def _embedding(model: str, *, vector: str, tokens: int, truncated: bool = False) -> Embedding:
    import numpy as np

    values = np.frombuffer(base64.b64decode(vector), dtype="<f4").astype(np.float32)
    values.flags.writeable = False
    return Embedding(
        vector=values,
        tokens=tokens,
        truncated=truncated,
        model=model,
        fingerprint="",
        cost_s=_cost_s(0),
    )


def _cost_s(chunks: int) -> float:
    # What it cost is not recorded: it differs each time. The cache needs some number above 0.
    return 0.001 * (1 + chunks)
