"""From requests to the bodies that the kinds of servers read.

What a server cannot do is refused here, before anything is sent: an option that it ignores would be
in the key of an answer that does not have it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import attrs

from asteady._base.errors import AsteadyError, InvalidRequestError, ModelCapabilityError
from asteady._base.messages import is_continued
from asteady._base.requests import EmbedRequest, GenerateRequest, Key
from asteady._base.tools import CHOICES
from asteady._engine.api import Request
from asteady._engine.remote.identity import Identity, Server


@attrs.frozen(kw_only=True)
class RemoteJob:
    """A request and what is sent for it: `body`, JSON, to `path` below the server's address.

    `expected_key` is that of the server's own answer, if it is asteady and tells it. Texts to embed
    whose `options` are equal can be sent together; they are the body without the text.
    """

    request: Request
    path: str
    body: bytes
    expected_key: Key | None
    options: bytes = b""


def job_of(request: Request, identity: Identity) -> RemoteJob:
    """
    Raises:
        ModelCapabilityError: the server cannot do what the request asks for.
        InvalidRequestError: it does not take an argument.
    """
    if isinstance(request, EmbedRequest):
        return _embed_job(request, identity)
    expected = None
    if identity.shares_keys:
        expected = _as_sent(request).key(identity.fingerprint)
    return RemoteJob(
        request=request,
        path="completions" if request.raw else "chat/completions",
        body=_json({"model": identity.name, **_generate_fields(request, identity.server)}),
        expected_key=expected,
    )


def _embed_job(request: EmbedRequest, identity: Identity) -> RemoteJob:
    expected = None
    if identity.shares_keys:
        expected = attrs.evolve(request, isolation=None).key(identity.fingerprint)
    options = _json({"model": identity.name, **_embed_fields(request, identity.server)})
    return RemoteJob(
        request=request,
        path="embeddings",
        body=_with_input(options, request.text),
        expected_key=expected,
        options=options,
    )


def body_of(jobs: Sequence[RemoteJob]) -> bytes:
    """What is sent for one job, or for several texts with the same options."""
    if len(jobs) == 1:
        return jobs[0].body
    return _with_input(jobs[0].options, [text_of(job) for job in jobs])


def text_of(job: RemoteJob) -> str:
    """The text to embed."""
    assert isinstance(job.request, EmbedRequest)
    return job.request.text


def _with_input(options: bytes, given: str | list[str]) -> bytes:
    return b"%s,%s" % (options[:-1], _json({"input": given})[1:])


def _json(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def _as_sent(request: GenerateRequest) -> GenerateRequest:
    """The request that the server makes of the body: a chat has messages, and no prompt."""
    request = attrs.evolve(request, isolation=None)
    if request.raw:
        return request
    return attrs.evolve(request, prompt=None, messages=request.conversation())


def is_sent_as_it_is(request: Request) -> bool:
    """Whether the request that the server makes of the body is equal to this one."""
    if request.isolation is not None:
        return False
    return isinstance(request, EmbedRequest) or request.raw or request.prompt is None


def _generate_fields(request: GenerateRequest, server: Server) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens" if server == "openai" else "max_tokens": request.max_new_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
        **_sampling(request, server),
        **_form(request, server),
    }
    if request.stop:
        fields["stop"] = list(request.stop)
    if request.logit_bias:
        fields["logit_bias"] = {str(token): bias for token, bias in request.logit_bias}
    if request.raw:
        if request.logprobs is not None:
            fields["logprobs"] = request.logprobs
        return {"prompt": request.prompt, **fields}
    if request.logprobs is not None:
        fields["logprobs"] = True
        fields["top_logprobs"] = request.logprobs
    if request.chat_template_kwargs:
        fields["chat_template_kwargs"] = {
            name: json.loads(value) for name, value in request.chat_template_kwargs
        }
    if server == "asteady":
        fields["date"] = request.date
    if request.tools:
        choice = request.tool_choice
        fields["tools"] = [json.loads(tool) for tool in request.tools]
        fields["tool_choice"] = (
            choice if choice in CHOICES else {"type": "function", "function": {"name": choice}}
        )
    messages = request.conversation()
    if server == "asteady" and any(message.role == "developer" for message in messages):
        raise InvalidRequestError(
            "a message with the role 'developer' is one of the role 'system' for a remote asteady: "
            "give that role"
        )
    if is_continued(messages):
        if server == "vllm":
            fields |= {"continue_final_message": True, "add_generation_prompt": False}
        elif server not in ("asteady", "llama-server"):
            raise _cannot("continue a last message of the assistant", "leave that message out")
    return {"messages": [message.as_dict() for message in messages], **fields}


def _sampling(request: GenerateRequest, server: Server) -> dict[str, Any]:
    """Local servers have defaults of their own, so each of them is sent what it knows; to others,
    which refuse what they do not know, only what is not switched off."""
    given = {
        "top_p": (request.top_p, 1.0),
        "presence_penalty": (request.presence_penalty, 0.0),
        "frequency_penalty": (request.frequency_penalty, 0.0),
        "top_k": (request.top_k, 0),
        "min_p": (request.min_p, 0.0),
        "typical_p": (request.typical_p, 1.0),
        "repeat_penalty": (request.repeat_penalty, 1.0),
    }
    if server in ("vllm", "other"):
        given["repetition_penalty"] = given["repeat_penalty"]
    if server == "vllm":
        del given["repeat_penalty"]
        if request.typical_p != 1.0:
            raise _cannot("sample by typical_p", "leave it out")
        del given["typical_p"]
    knows_all = server in ("asteady", "llama-server", "vllm")
    found = {name: value for name, (value, off) in given.items() if knows_all or value != off}
    penalties = (request.repeat_penalty, request.presence_penalty, request.frequency_penalty)
    if server == "llama-server" and penalties != (1.0, 0.0, 0.0):
        found["repeat_last_n"] = request.max_new_tokens  # of all tokens of the answer, as here
    return found


def _form(request: GenerateRequest, server: Server) -> dict[str, Any]:
    constraint = request.constraint
    if constraint is None:
        return {}
    if constraint.kind == "json":
        schema = json.loads(constraint.source)
        if request.raw and server == "llama-server":
            return {"json_schema": schema}
        named = {"name": "answer", "schema": schema, "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": named}}
    value = constraint.choices if constraint.kind == "choices" else constraint.source
    match server, constraint.kind:
        case "asteady", "lark":
            return {"lark_grammar": value}
        case "asteady", kind:
            return {kind: value}
        case "vllm", "choices":
            return {"structured_outputs": {"choice": value}}
        case "vllm", "regex":
            return {"structured_outputs": {"regex": value}}
        case "llama-server", "choices":
            return {"grammar": "root ::= " + " | ".join(map(_gbnf_text, constraint.choices))}
    name = "grammar" if constraint.kind == "lark" else constraint.kind
    raise _cannot(f"hold an answer to {name}", "give a schema instead")


def _gbnf_text(text: str) -> str:
    """A literal in llama.cpp's grammars."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + plain.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t") + '"'


def _embed_fields(request: EmbedRequest, server: Server) -> dict[str, Any]:
    if server == "asteady":
        return {
            "encoding_format": "base64",
            "dimensions": request.dimensions,
            "mode": request.mode,
            "truncate": request.truncate,
        }
    if request.truncate:
        raise _cannot("cut a text to its context", "leave truncate out, and shorten the text")
    if request.mode is not None:
        raise _cannot(
            "write the model's instruction before a text",
            "leave mode out, and write it yourself",
        )
    # The vector is cut here, which is the same: not all servers and models do it.
    return {"encoding_format": "float"}


def _cannot(what: str, remedy: str) -> AsteadyError:
    return ModelCapabilityError(f"the model's server cannot {what}: {remedy}")
