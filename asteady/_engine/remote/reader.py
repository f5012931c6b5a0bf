"""From the events of a stream, or a vector, to an answer of asteady's."""

from __future__ import annotations

import base64
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import attrs

from asteady._base.errors import (
    IncompleteAnswerError,
    InvalidRequestError,
    RemoteError,
)
from asteady._base.messages import ToolCall, canonical_json, is_continued
from asteady._base.requests import (
    ChunkLogprobs,
    Completion,
    Embedding,
    EmbedRequest,
    FinishReason,
    GenerateRequest,
    TokenLogprob,
    call_id,
)
from asteady._base.tools import DEFAULT_CHOICE
from asteady._engine.api import CallEvent, ChunkEvent, Event, SlotId
from asteady._engine.output.cut import ENDED_IN_REASONING, cut_message
from asteady._engine.remote.body import RemoteJob, text_of
from asteady._engine.remote.failures import broken, told_error
from asteady._engine.remote.forms import has_form
from asteady._engine.remote.identity import Identity

# Some say "stop" beside calls of tools, and others the opposite.
_REASONS = ("stop", "length", "tool_calls", "function_call", "eos", "eos_token", "stop_sequence")
# What JSON can have in place of minus infinity.
_LEAST_LOGPROB = -9999.0
_MAX_TOKEN_ID = 2**31 - 1
KEY_HEADER = "x-asteady-key"


@attrs.frozen
class Answering:
    """Who answers which job, for messages and records."""

    job: RemoteJob
    identity: Identity
    where: object
    model: str

    def check_key(self, key: object) -> None:
        """
        Raises:
            RemoteError: the server's answer, with this key, is to another request than was sent.
        """
        expected = self.job.expected_key
        if expected is not None and key != expected:
            raise RemoteError(
                f"the server at {self.where} gave the key {key} to the request with the key "
                f"{expected}: it has another version of asteady or llguidance; install the same "
                "ones, or declare a revision for answers with keys of their own, as in #name@1"
            )


class CompletionReader:
    """Reads the events of one stream; lives until its answer, error or end."""

    def __init__(
        self,
        answering: Answering,
        request: GenerateRequest,
        headers: Mapping[str, str],
        slot: SlotId,
    ) -> None:
        self._answering = answering
        self._request = request
        self._headers = headers
        self._slot = slot
        self._checked = False
        self._chunks: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, _Call] = {}
        self._logprobs: list[TokenLogprob] = []
        self._reasoning_logprobs: list[TokenLogprob] = []  # they may come at the end
        self._chunk_logprobs: ChunkLogprobs | None = None
        self._reason: str | None = None
        self._usage: Mapping[str, Any] = {}
        self._incomplete = False
        # llama-server repeats the message that it continues.
        self._repeated = ""
        if answering.identity.server == "llama-server" and is_continued(request.messages):
            self._repeated = request.messages[-1].content or ""
        self._held = ""
        self._most_chunks = 2 * request.max_new_tokens + 1024
        self.done = False

    def read(self, event: bytes) -> list[Event]:
        """The chunks in one event.

        Raises:
            RemoteError: it is not valid, or tells an error.
            ModelChangedError: it is by another model.
        """
        if event == b"[DONE]":
            self.done = True
            return []
        try:
            data = json.loads(event)
        except (ValueError, RecursionError) as exc:
            self._refuse(f"an event is no JSON: {exc}")
        if not isinstance(data, Mapping):
            self._refuse("an event is no JSON object")
        if data.get("error"):
            raise told_error(self._answering.where, data)
        if not self._checked:
            # Before anything is emitted.
            self._answering.identity.check_reported(self._answering.where, data)
            self._answering.check_key(self._headers.get(KEY_HEADER))
            self._checked = True
        if isinstance(usage := data.get("usage"), Mapping):
            self._usage = usage
        choices = data.get("choices")
        if choices is None or choices == []:
            return []
        if not isinstance(choices, list) or not isinstance(choices[0], Mapping):
            self._refuse("its choices are no list of objects")
        if len(choices) > 1 or choices[0].get("index") not in (None, 0):
            self._refuse("it has several choices, and one was asked for")
        return self._choice(choices[0])

    def _choice(self, choice: Mapping[str, Any]) -> list[Event]:
        found: list[Event] = []
        delta = choice.get("delta") or {}
        if not isinstance(delta, Mapping):
            self._refuse("a delta is no object")
        if self._request.raw:
            text = choice.get("text")
        else:
            # vLLM has renamed it.
            reasoning = delta.get("reasoning_content") or delta.get("reasoning")
            self._add(self._reasoning, reasoning, found)
            text = self._new(delta.get("content"))
        if text and not self._chunks and self._reasoning:
            # Those so far came with the reasoning.
            self._reasoning_logprobs, self._logprobs = self._logprobs, []
        if choice.get("logprobs") and self._request.logprobs is not None:
            self._add_logprobs(choice["logprobs"], self._request.logprobs)
        self._add(self._chunks, text, found)
        self._add_calls(delta.get("tool_calls"))
        self._incomplete |= choice.get("incomplete") is True
        if (reason := choice.get("finish_reason")) is not None:
            self._reason = str(reason)
        return found

    def _add_logprobs(self, given: Any, top: int) -> None:
        reasoning, text = _logprobs(given, top, self._refuse)
        self._reasoning_logprobs += reasoning
        self._logprobs += text

    def _new(self, text: object) -> object:
        """The text without what is repeated before it."""
        if not self._repeated or not isinstance(text, str):
            return text
        self._held += text
        if self._held == self._repeated[: len(self._held)]:
            return ""
        text, repeated = self._held, self._repeated
        self._held = self._repeated = ""
        return text.removeprefix(repeated)

    def _add(self, chunks: list[str], text: object, found: list[Event]) -> None:
        if text is None or text == "":
            return
        if not isinstance(text, str):
            self._refuse("a text is none")
        chunks.append(_unicode(text))
        if len(self._chunks) + len(self._reasoning) > self._most_chunks:
            self._refuse(f"it goes on after {self._request.max_new_tokens} tokens")
        if chunks is self._reasoning:
            found.append(ChunkEvent(self._slot, chunks[-1], "reasoning"))
        else:
            found.append(ChunkEvent(self._slot, chunks[-1], logprobs=self._take_logprobs()))

    def _take_logprobs(self) -> tuple[TokenLogprob, ...]:
        """Those of the last chunk of text, if they are wanted."""
        if self._request.logprobs is None:
            return ()
        if self._chunk_logprobs is None:
            self._chunk_logprobs = ChunkLogprobs(after_reasoning=bool(self._reasoning))
        return self._chunk_logprobs.take(self._chunks[-1], self._logprobs, 0)

    def _add_calls(self, deltas: object) -> None:
        if deltas is None:
            return
        if not isinstance(deltas, list):
            self._refuse("its calls of tools are no list")
        for delta in deltas:
            function = delta.get("function") if isinstance(delta, Mapping) else None
            if not isinstance(function, Mapping):
                self._refuse("a call of a tool has no function")
            place = delta.get("index", 0)
            call = self._calls.setdefault(place if isinstance(place, int) else 0, _Call())
            call.name += str(function.get("name") or "")
            call.arguments += str(function.get("arguments") or "")

    @property
    def ended(self) -> bool:
        """Whether the server said why the answer ends."""
        return self._reason is not None

    def finish(self, cost_s: float) -> tuple[list[Event], Completion]:
        """The calls of tools, and the answer; after the last event, if it has `ended`.

        Raises:
            RemoteError: what is in the stream is no answer.
            IncompleteAnswerError: the answer was cut before its form was complete.
        """
        assert self._reason is not None
        if self._reason not in _REASONS:
            raise RemoteError(
                f"the server at {self._answering.where} ended the answer by {self._reason[:100]!r}"
            )
        identity, request = self._answering.identity, self._request
        logprobs = (*self._reasoning_logprobs, *self._logprobs)
        events: list[Event] = []
        if self._held != self._repeated:  # it was no repetition, but a shorter text
            self._add(self._chunks, self._held, events)
        calls = self._tool_calls()
        text, reasoning = "".join(self._chunks), "".join(self._reasoning)
        tokens = _count(self._usage.get("completion_tokens"))
        details = self._usage.get("completion_tokens_details")
        reasoning_tokens = _count(_of(details, "reasoning_tokens"))
        if identity.server != "asteady":
            # Some count otherwise, or not at all; a chunk is a token or more.
            reasoning_tokens = max(reasoning_tokens, len(self._reasoning)) if reasoning else 0
            # So that the chunks of a cached answer have the same logprobs.
            reasoning_tokens = len(self._reasoning_logprobs) or reasoning_tokens
            tokens = max(
                tokens,
                reasoning_tokens + len(self._chunks),
                len(logprobs),
            )
        answer = Completion(
            text=text,
            chunks=tuple(self._chunks),
            finish_reason=self._finish_reason(bool(calls)),
            prompt_tokens=_count(self._usage.get("prompt_tokens")),
            completion_tokens=tokens,
            logprobs=None if request.logprobs is None else logprobs,
            seed=request.seed,
            model=self._answering.model,
            fingerprint=identity.fingerprint,
            cost_s=cost_s,
            reused_tokens=_count(_of(self._usage.get("prompt_tokens_details"), "cached_tokens")),
            reasoning=reasoning or None,
            reasoning_chunks=tuple(self._reasoning),
            reasoning_tokens=reasoning_tokens,
            tool_calls=tuple(calls),
        )
        self._check_form(answer)
        return [*events, *(CallEvent(self._slot, call) for call in calls)], answer

    def _finish_reason(self, called: bool) -> FinishReason:
        if called:
            return "tool_calls"
        return "length" if self._reason == "length" else "stop"

    def _tool_calls(self) -> list[ToolCall]:
        if not self._calls:
            return []
        key = self._request.key(self._answering.identity.fingerprint)
        found: list[ToolCall] = []
        for at, (_, call) in enumerate(sorted(self._calls.items())):
            try:
                arguments = json.loads(call.arguments or "{}")
                if not call.name or not isinstance(arguments, dict):
                    raise ValueError("a name and an object are needed")
                # Of asteady they are as it wrote them.
                text = call.arguments
                if self._answering.identity.server != "asteady":
                    text = canonical_json("arguments", arguments)
            except (ValueError, RecursionError, InvalidRequestError) as exc:
                if self._reason == "length":
                    self._incomplete = True
                    return found
                self._refuse(f"a call of the tool {call.name[:100]!r} cannot be read: {exc}")
            if call.name not in self._tool_names():
                self._refuse(f"it calls the tool {call.name[:100]!r}, which was not offered")
            found.append(ToolCall(name=call.name, arguments_json=text, id=call_id(key, at)))
        return found

    def _tool_names(self) -> set[str]:
        return {json.loads(tool)["function"]["name"] for tool in self._request.tools}

    def _check_form(self, answer: Completion) -> None:
        request, text = self._request, answer.text
        constraint = request.constraint
        form = None if constraint is None else constraint.kind
        uncalled = request.tool_choice != DEFAULT_CHOICE and not answer.tool_calls
        cut = self._reason == "length"
        if self._incomplete or (cut and (uncalled or form in ("json", "choices"))):
            what = ENDED_IN_REASONING
            if cut:
                tokens = answer.completion_tokens
                # Others may count otherwise.
                exact = self._answering.identity.server == "asteady"
                what = cut_message(
                    constraint,
                    tokens,
                    reasoned=answer.reasoning is not None,
                    context_full=exact and tokens < request.max_new_tokens,
                )
            error = IncompleteAnswerError(what)
            error.text = text
            error.reasoning = answer.reasoning
            error.prompt_tokens = answer.prompt_tokens
            error.completion_tokens = answer.completion_tokens
            raise error
        if uncalled:
            self._refuse(f"tool_choice={request.tool_choice!r} asks for a call, and it has none")
        if constraint is not None and not cut and not has_form(text, constraint):
            self._refuse(f"the text {text[:100]!r} does not have the form that was asked for")
        for stop in request.stop:
            if stop in text:
                self._refuse(f"the text goes on after the stop string {stop!r}")
        if request.logprobs is not None and text and not answer.logprobs:
            self._refuse("the log probabilities that were asked for are missing")

    def _refuse(self, reason: str) -> NoReturn:
        raise broken(self._answering.where, reason)


@attrs.define
class _Call:
    name: str = ""
    arguments: str = ""


def embeddings_of(
    answering: Sequence[Answering],
    content: Mapping[str, Any],
    headers: Mapping[str, str],
    cost_s: float,
) -> list[Embedding]:
    """Those of the texts of one request, in order.

    Raises:
        RemoteError: they are no vectors, or not one for each text, or the server's keys are others.
        ModelChangedError: they are by another model.
        InvalidRequestError: the vectors have fewer dimensions than are asked for.
    """
    first, count = answering[0], len(answering)
    first.identity.check_reported(first.where, content)
    rows = content.get("data")
    if not (
        isinstance(rows, list)
        and len(rows) == count
        and all(isinstance(row, Mapping) for row in rows)
    ):
        raise broken(first.where, f"its data is no list of {count} vectors")
    if count == 1:
        first.check_key(headers.get(KEY_HEADER))
    else:
        rows.sort(key=lambda row: _count(row.get("index")))
        if [row.get("index") for row in rows] != [*range(count)]:
            raise broken(first.where, "its vectors do not say which text is whose")
        for each, row in zip(answering, rows, strict=True):
            each.check_key(row.get("key"))
    shares = _shares(
        _count(_of(content.get("usage"), "prompt_tokens")),
        [1 + len(text_of(each.job)) for each in answering],
    )
    return [
        _embedding(each, row, share, cost_s / count)
        for each, row, share in zip(answering, rows, shares, strict=True)
    ]


def _shares(total: int, lengths: Sequence[int]) -> list[int]:
    """A total divided by lengths, without a rest."""
    ends = [total * end // sum(lengths) for end in itertools.accumulate(lengths)]
    return [end - begin for begin, end in itertools.pairwise([0, *ends])]


def _embedding(
    answering: Answering, row: Mapping[str, Any], tokens: int, cost_s: float
) -> Embedding:
    """Of a server that does not tell how many tokens this text has, `tokens` are believed."""
    import numpy as np

    identity, where, request = answering.identity, answering.where, answering.job.request
    assert isinstance(request, EmbedRequest)
    try:
        given = row.get("embedding")
        if isinstance(given, str):
            vector = np.frombuffer(base64.b64decode(given, validate=True), "<f4")
        else:
            vector = np.array(given, np.float64)
        if vector.ndim != 1 or not vector.size:
            raise ValueError("it has another shape")
    except (ValueError, TypeError) as exc:
        raise broken(where, f"it is no vector: {exc}") from None
    if identity.server == "asteady":
        vector = vector.astype(np.float32)
    else:
        if request.dimensions is not None and request.dimensions > vector.size:
            raise InvalidRequestError(
                f"dimensions={request.dimensions} is not allowed: the model's vectors have "
                f"{vector.size}"
            )
        wide = vector[: request.dimensions].astype(np.float64)
        with np.errstate(over="ignore"):
            norm = float(np.linalg.norm(wide))
        if not (math.isfinite(norm) and norm > 0):
            raise broken(where, f"its vector has the L2 norm {norm}")
        vector = (wide / norm).astype(np.float32)
    vector.flags.writeable = False
    return Embedding(
        vector=vector,
        tokens=_count(row.get("tokens", tokens)),
        truncated=row.get("truncated") is True,
        model=answering.model,
        fingerprint=identity.fingerprint,
        cost_s=cost_s,
    )


def _logprobs(found: Any, top: int, refuse: Any) -> tuple[list[TokenLogprob], list[TokenLogprob]]:
    """Those of reasoning, and those of text."""
    try:
        if "content" not in found:
            return [], _old_logprobs(found, top)
        reasoning, text = found.get("reasoning_content") or (), found["content"] or ()
        return (
            [_token_logprob(record, top) for record in reasoning],
            [_token_logprob(record, top) for record in text],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        refuse(f"its log probabilities cannot be read: {exc!r}")
        raise


def _token_logprob(record: Mapping[str, Any], top: int) -> TokenLogprob:
    others = [_token(each) for each in record.get("top_logprobs") or ()]
    identified, token, logprob = _token(record)
    return TokenLogprob(token_id=identified, token=token, logprob=logprob, top=_best(others, top))


def _old_logprobs(found: Mapping[str, Any], top: int) -> list[TokenLogprob]:
    """As in the API of completions, without the tokens' ids and bytes."""
    tops: Sequence[Any] = found.get("top_logprobs") or [None] * len(found["tokens"])
    return [
        TokenLogprob(
            token_id=0,
            token=_unicode(token).encode(),
            logprob=_logprob(logprob),
            top=_best(
                [
                    (0, _unicode(text).encode(), _logprob(value))
                    for text, value in (others or {}).items()
                ],
                top,
            ),
        )
        for token, logprob, others in zip(
            found["tokens"], found["token_logprobs"], tops, strict=True
        )
    ]


def _token(record: Mapping[str, Any]) -> tuple[int, bytes, float]:
    """Its id, 0 where the server does not tell it; its bytes; its log probability."""
    identified = record.get("id", 0)
    if not isinstance(identified, int) or not 0 <= identified <= _MAX_TOKEN_ID:
        raise ValueError(f"the token {identified!r}")
    given = record.get("bytes")
    token = bytes(given) if given is not None else _unicode(record["token"]).encode()
    return identified, token, _logprob(record["logprob"])


def _logprob(value: Any) -> float:
    number = float(value)
    if math.isnan(number) or number == math.inf:
        raise ValueError(f"the log probability {number}")
    return max(number, _LEAST_LOGPROB)


def _best(
    tokens: list[tuple[int, bytes, float]], count: int
) -> tuple[tuple[int, bytes, float], ...]:
    return tuple(sorted(tokens, key=lambda token: -token[2])[:count])


def _unicode(text: str) -> str:
    """JSON can have half of a character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _of(found: object, name: str) -> object:
    return found.get(name) if isinstance(found, Mapping) else None


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
