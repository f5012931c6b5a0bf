"""The TOML format of recorded answers. It is sorted and line-oriented, so that diffs are readable.

Of a request, only the fields that differ from the defaults are written. Of an answer, the text is
written in full and its chunks as their lengths. Compute time and fingerprint are left out because
they differ from run to run.
"""

from __future__ import annotations

import base64
import difflib
import json
import re
import textwrap
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import attrs

from asteady._base import errors as _errors
from asteady._base.errors import AsteadyError
from asteady._base.messages import Message, ToolCall
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

# Raise it when the default of a request field changes: fields at the default are not written.
VERSION = 1

_HEADER = """\
# Answers of language models, for tests; written by `pytest --asteady-record`.
"""


_ERRORS: Mapping[str, type[AsteadyError]] = {
    name: error
    for name, error in vars(_errors).items()
    if isinstance(error, type) and issubclass(error, AsteadyError)
}


@public
class RecordingError(AsteadyError):
    """A file of recorded answers cannot be read."""


@attrs.frozen
class RecordedError:
    """The error that a request raised instead of giving an answer, by its name in `asteady`."""

    error: str = attrs.field(validator=attrs.validators.in_(_ERRORS))
    message: str

    def as_error(self) -> AsteadyError:
        return _ERRORS[self.error](self.message)


@attrs.frozen
class ModelRequest:
    """A request and its model, by the reference that the program used."""

    kind: Kind
    model: str
    request: Request

    def __str__(self) -> str:
        return "\n".join(_request_lines(self))


Recorded: TypeAlias = dict[ModelRequest, Answer | RecordedError]


def nearest(wanted: ModelRequest, candidates: Iterable[ModelRequest]) -> ModelRequest | None:
    """The candidate of the same kind whose text is the most similar, or None.

    Candidates of the same model are preferred.
    """
    same = [other for other in candidates if other.kind == wanted.kind]
    same = [other for other in same if other.model == wanted.model] or same
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(str(wanted))
    best, best_ratio = None, -1.0
    for other in same:
        matcher.set_seq1(str(other))
        # Cheap upper bounds first.
        if matcher.real_quick_ratio() > best_ratio and matcher.quick_ratio() > best_ratio:
            ratio = matcher.ratio()
            if ratio > best_ratio:
                best, best_ratio = other, ratio
    return best


# -- writing -------------------------------------------------------------------------------------


def dumps(recorded: Recorded) -> str:
    """The text of a file. It does not depend on the order of `recorded`."""
    blocks = [_HEADER + f"version = {VERSION}\n"]
    for each in sorted(recorded, key=lambda each: (each.kind, each.model, str(each))):
        blocks.append("\n".join(_block(each, recorded[each])) + "\n")
    return "\n".join(blocks)


def _block(model_request: ModelRequest, answer: Answer | RecordedError) -> list[str]:
    lines = [f"[[{model_request.kind}]]", *_request_lines(model_request)]
    if isinstance(answer, RecordedError):
        return [
            *lines,
            f"[{model_request.kind}.refused]",
            f"error = {_string(answer.error)}",
            f"message = {_string(answer.message)}",
        ]
    lines.append(f"[{model_request.kind}.answer]")
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
    if answer.reasoning_tokens:
        lines += [
            f"reasoning = {_string(answer.reasoning or '')}",
            *_wrapped("reasoning_chunks", [str(len(chunk)) for chunk in answer.reasoning_chunks]),
            f"reasoning_tokens = {answer.reasoning_tokens}",
        ]
    if answer.tool_calls:
        calls = [(call.name, call.arguments_json, call.id or "") for call in answer.tool_calls]
        lines += ["tool_calls = [", *(f"    {_value(call)}," for call in calls), "]"]
    if answer.logprobs is not None:
        lines += ["logprobs = [", *(f"    {_value(_flat(t))}," for t in answer.logprobs), "]"]
    return lines


def _request_lines(model_request: ModelRequest) -> list[str]:
    lines = [f"model = {_string(model_request.model)}"]
    for field in attrs.fields(type(model_request.request)):
        value = getattr(model_request.request, field.name)
        if value != _DEFAULTS[model_request.kind].get(field.name, _NOTHING):
            if field.name == "messages":
                messages = [_message_value(message) for message in value]
                lines += ["messages = [", *(f"    {message}," for message in messages), "]"]
            elif field.name == "constraint":
                lines += [
                    f"{name} = {_value(tuple(given) if isinstance(given, list) else given)}"
                    for name, given in value.as_texts().items()
                ]
            else:
                lines.append(f"{field.name} = {_value(value)}")
    return lines


_NOTHING = object()
_DEFAULTS: Mapping[Kind, Mapping[str, Any]] = {
    "generation": {
        **attrs.asdict(GenerateRequest.of("-"), recurse=False),
        "prompt": None,  # Written if there is one, even an empty one; so is the text below.
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


def _message_value(message: Message) -> str:
    """A pair of role and content where that is all, else JSON."""
    plain = message.key()
    if len(plain) == 2:
        return _value(plain)
    return _string(json.dumps(message.as_dict(), ensure_ascii=False))


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
    # Escaped are control characters, carriage returns (TOML may read them as line ends), and
    # spaces at the end of a line (editors remove them).
    text = text.replace("\\", "\\\\")
    text = re.sub(r"[\x00-\x09\x0b-\x1f\x7f]", lambda found: f"\\u{ord(found[0]):04x}", text)
    if "\n" not in text:
        return '"' + text.replace('"', '\\"') + '"'
    text = re.sub(r'"(?="|\Z)', lambda _: '\\"', text)
    text = re.sub(r" (?=$)", r"\\u0020", text, flags=re.M)
    return f'"""\n{text}"""'


# -- reading -------------------------------------------------------------------------------------


def loads(text: str, where: object) -> Recorded:
    """Parse the output of `dumps`.

    Raises:
        RecordingError: the text has another version or is not valid; the message names `where`.
    """
    try:
        tables = tomllib.loads(text)
        if tables["version"] != VERSION:
            raise ValueError(f"it has format version {tables['version']!r}, not {VERSION}")
        recorded: Recorded = {}
        for table in tables.get("generation", ()):
            _read(recorded, "generation", table)
        for table in tables.get("embedding", ()):
            _read(recorded, "embedding", table)
        return recorded
    except (ValueError, LookupError, TypeError, AsteadyError) as exc:
        raise RecordingError(
            f"the recorded answers in {where} cannot be read ({type(exc).__name__}: {exc}); delete "
            "the file and record the answers again with --asteady-record"
        ) from exc


def _read(recorded: Recorded, kind: Kind, table: dict[str, Any]) -> None:
    model, answer, refused = (table.pop(name, None) for name in ("model", "answer", "refused"))
    request: Request
    if kind == "generation":
        for name, convert in (
            ("messages", _messages),
            ("logit_bias", dict),
            ("chat_template_kwargs", _variables),
            ("tools", _tools),
        ):
            if name in table:
                table[name] = convert(table[name])
        isolation = table.pop("isolation", None)
        request = GenerateRequest.of(**table)
        request = attrs.evolve(request, isolation=isolation)
    else:
        request = EmbedRequest.of(**table)
    model_request = ModelRequest(kind, str(model), request)
    if refused is not None:
        recorded[model_request] = RecordedError(**refused)
    elif isinstance(request, GenerateRequest):
        recorded[model_request] = _completion(model_request.model, request, **answer)
    else:
        recorded[model_request] = _embedding(model_request.model, **answer)


def _messages(messages: list[Any]) -> list[dict[str, Any]]:
    return [
        json.loads(message)
        if isinstance(message, str)
        else dict(zip(("role", "content"), message, strict=True))
        for message in messages
    ]


def _tools(tools: list[str]) -> list[dict[str, Any]]:
    return [json.loads(tool) for tool in tools]


def _variables(variables: list[tuple[str, str]]) -> dict[str, Any]:
    return {name: json.loads(value) for name, value in variables}


def _completion(
    model: str,
    request: GenerateRequest,
    *,
    text: str,
    chunks: list[int],
    reasoning: str = "",
    reasoning_chunks: Sequence[int] = (),
    logprobs: list[Any] | None = None,
    tool_calls: Sequence[Sequence[str]] = (),
    **rest: Any,
) -> Completion:
    return Completion(
        text=text,
        chunks=_cut(text, chunks),
        reasoning=reasoning or None,
        reasoning_chunks=_cut(reasoning, reasoning_chunks),
        logprobs=None if logprobs is None else tuple(map(_token, logprobs)),
        tool_calls=tuple(
            ToolCall(name=name, arguments_json=arguments, id=id or None)
            for name, arguments, id in tool_calls
        ),
        seed=request.seed,
        model=model,
        fingerprint="",
        cost_s=_cost_s(len(chunks)),
        **rest,
    )


def _cut(text: str, lengths: Sequence[int]) -> tuple[str, ...]:
    cut, start = [], 0
    for length in lengths:
        cut.append(text[start : start + length])
        start += length
    if "".join(cut) != text:
        raise ValueError(f"the chunks {lengths} do not make up the text {text!r}")
    return tuple(cut)


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
    # The real cost is not recorded, because it differs each time. The cache needs one above 0.
    return 0.001 * (1 + chunks)
