"""POST /completions: texts that are written on, without a chat template."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from asteady._base.requests import TextChunk, TokenLogprob
from asteady.server._openai.choices import Answer, Choices, usage_of
from asteady.server._openai.endpoint import Asked, Endpoint, Reply, event
from asteady.server._openai.errors import refused
from asteady.server._openai.logprobs import logprob_record
from asteady.server._openai.options import (
    check_fields,
    choices_of,
    flag,
    form_options,
    sampling_options,
    wants_usage,
    with_seed_of,
)
from asteady.server._openai.texts import texts_of

_KNOWN = frozenset(
    {"model", "prompt", "n", "best_of", "stream", "stream_options", "logprobs", "echo"}
    | {"response_format"}
)
_MOST_PROMPTS = 64
_MOST_LOGPROBS = 5


class Completions(Endpoint):
    """Continuations of texts. The prompt reaches the model as it is, special tokens included."""

    subject = "prompt"

    async def reply(self, asked: Asked) -> Reply:
        body = asked.body
        check_fields(body, _KNOWN)
        name, reference = self.served.find("generation", body.get("model"))
        streamed, echo = flag(body, "stream"), flag(body, "echo")
        with_usage = wants_usage(body) and streamed
        number = choices_of(body)
        if body.get("best_of") not in (None, number):
            raise refused("best_of", "leave it out, or give the number n")
        options = {
            "model": reference,
            "raw": True,
            **sampling_options(body, self.most_tokens),
            **form_options(body.get("response_format")),
        }
        if (logprobs := body.get("logprobs")) is not None:
            if isinstance(logprobs, bool) or not isinstance(logprobs, int):
                raise refused("logprobs", f"a number is needed, not {logprobs!r}"[:200])
            if not 0 <= logprobs <= _MOST_LOGPROBS:
                raise refused("logprobs", f"0 to {_MOST_LOGPROBS} are allowed, not {logprobs}")
            options["logprobs"] = logprobs
        given = body.get("prompt")
        prompts = await texts_of(
            self.session, "generation", reference, "prompt", given, _MOST_PROMPTS
        )
        choices = await Choices.open(
            asked,
            self.session,
            [
                {"prompt": prompt, **with_seed_of(options, index)}
                for prompt in prompts
                for index in range(number)
            ],
        )
        head = {
            "id": f"cmpl-{choices.key[:32]}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": name,
            "system_fingerprint": choices.fingerprint,
        }
        echoed = [prompt if echo else "" for prompt in prompts for _ in range(number)]
        if streamed:
            events = _events(choices, head, echoed, number if with_usage else 0)
            return Reply(events, choices.headers, choices.ready)
        answers = await choices.answers(asked)
        found = [
            _choice(index, before + answer.text, answer, _logprobs(_tokens(answer), len(before)))
            for index, (before, answer) in enumerate(zip(echoed, answers, strict=True))
        ]
        usage = usage_of(answers, number)
        return Reply({**head, "choices": found, "usage": usage}, choices.headers)


def _choice(
    index: int,
    text: str,
    answer: Answer | None = None,
    logprobs: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "index": index,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": None if answer is None else answer.finish_reason,
        **({} if answer is None else answer.incomplete()),
    }


def _tokens(answer: Answer) -> Sequence[TokenLogprob] | None:
    return None if answer.completion is None else answer.completion.logprobs


def _logprobs(tokens: Sequence[TokenLogprob] | None, offset: int) -> dict[str, Any] | None:
    """Those of tokens whose text begins at the character `offset`."""
    if tokens is None:
        return None
    texts = [token.token.decode("utf-8", "replace") for token in tokens]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": texts,
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [
            {text.decode("utf-8", "replace"): logprob for _, text, logprob in token.top}
            for token in tokens
        ],
        "text_offset": offsets,
        # As llama.cpp's server has them.
        "content": [logprob_record(token) for token in tokens],
    }


async def _events(
    choices: Choices, head: Mapping[str, Any], echoed: list[str], counted: int
) -> AsyncIterator[bytes]:
    """The chunks; at the end the tokens, if the number of choices of a prompt is `counted`."""
    more = {"usage": None} if counted else {}

    def chunk(choice: dict[str, Any]) -> bytes:
        return event({**head, "choices": [choice], **more})

    sent: Counter[int] = Counter()
    offsets = [len(text) for text in echoed]

    def logprobs(index: int, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        found = _logprobs(tokens or None, offsets[index])
        if found is not None:
            sent[index] += len(tokens)
            offsets[index] += sum(map(len, found["tokens"]))
        return found

    answers: dict[int, Answer] = {}
    for index, text in enumerate(echoed):
        if text:
            yield chunk(_choice(index, text))
    async for index, found in choices.events():
        match found:
            case TextChunk(text, tokens):
                yield chunk(_choice(index, text, logprobs=logprobs(index, tokens)))
            case Answer():
                answers[index] = found
                rest = logprobs(index, (_tokens(found) or ())[sent[index] :])
                yield chunk(_choice(index, "", found, rest))
    if counted:
        usage = usage_of([answers[index] for index in range(len(echoed))], counted)
        yield event({**head, "choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"
