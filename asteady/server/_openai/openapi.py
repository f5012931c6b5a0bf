"""The description of the API that it gives of itself, as OpenAPI 3.1 has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from asteady._base.requests import KINDS

Schema = dict[str, Any]


def _or_null(schema: Mapping[str, Any]) -> Schema:
    return {"anyOf": [dict(schema), {"type": "null"}]}


def _object(required: Sequence[str] = (), **properties: Schema) -> Schema:
    found: Schema = {"type": "object", "properties": properties}
    return {**found, "required": list(required)} if required else found


def _list(items: Schema, low: int = 0, high: int | None = None) -> Schema:
    found: Schema = {"type": "array", "items": items}
    if low:
        found["minItems"] = low
    return found if high is None else {**found, "maxItems": high}


def _number(low: float, high: float) -> Schema:
    return {"type": "number", "minimum": low, "maximum": high}


def _whole(low: int, high: int) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


def _of(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_TEXT: Schema = {"type": "string"}
_SOME: Schema = {"type": "string", "minLength": 1}
_FLAG: Schema = {"type": "boolean"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_ANY: Schema = {"type": "object"}
_TOKENS = _whole(1, 2**31 - 1)
_IDS = _list(_COUNT, 1)

_SAMPLING: dict[str, Schema] = {
    "seed": _whole(0, 2**32 - 2),
    "temperature": _number(0, 100),
    "top_p": _number(0, 1),
    "top_k": _whole(-1, 2**31 - 1),
    "min_p": _number(0, 1),
    "typical_p": _number(0, 1),
    "repeat_penalty": _number(0.01, 10),
    "presence_penalty": _number(-10, 10),
    "frequency_penalty": _number(-10, 10),
    "logit_bias": {
        "type": "object",
        "propertyNames": {"pattern": "^[0-9]{1,9}$"},
        "additionalProperties": _number(-100, 100),
    },
    "stop": {
        "anyOf": [
            {**_SOME, "maxLength": 1000},
            _list({**_SOME, "maxLength": 1000}, 0, 100),
        ]
    },
    "chat_template_kwargs": _ANY,
    "stream": _FLAG,
}
_STREAM_OPTIONS = _object(include_usage=_or_null(_FLAG))
_FUNCTION = _object(["name"], name=_SOME, description={}, parameters=_or_null(_ANY))
_CALL = _object(
    ["function"],
    id=_TEXT,
    type={"const": "function"},
    function=_object(["name", "arguments"], name=_SOME, arguments=_TEXT),
)
_CONTENT: Schema = {
    "anyOf": [
        _TEXT,
        _list(_object(["type", "text"], type={"const": "text"}, text=_TEXT), 1),
    ]
}
_MESSAGE: Schema = {
    "anyOf": [
        _object(
            ["role", "content"],
            role=_SOME,
            content=_CONTENT,
            name=_or_null(_TEXT),
            tool_call_id=_or_null(_TEXT),
            reasoning_content=_or_null(_TEXT),
        ),
        _object(
            ["role", "tool_calls"],
            role=_SOME,
            content=_or_null(_CONTENT),
            tool_calls=_list(_CALL, 1),
            reasoning_content=_or_null(_TEXT),
        ),
    ]
}
_ITEM = _object(
    type={"enum": ["message", "function_call", "function_call_output", "reasoning"]},
    role=_TEXT,
)
_FORM: Schema = {
    "anyOf": [
        _object(["type"], type={"enum": ["text", "json_object"]}),
        _object(
            ["type", "json_schema"],
            type={"const": "json_schema"},
            json_schema=_object(["schema"], name={}, schema=_ANY, strict={}),
        ),
    ]
}
_USAGE = _object(
    ["prompt_tokens", "total_tokens"],
    prompt_tokens=_COUNT,
    completion_tokens=_COUNT,
    total_tokens=_COUNT,
)
_FINISH: Schema = {"enum": ["stop", "length", "tool_calls"]}
# What a template, or the library, may write into the prompt.
_PROMPT: dict[str, Schema] = {
    "response_format": _FORM,
    "tools": _list(_object(["function"], type={"const": "function"}, function=_FUNCTION)),
    "tool_choice": {"anyOf": [{"enum": ["none", "auto", "required"]}, _ANY]},
    "reasoning_effort": _TEXT,
    "chat_template_kwargs": _ANY,
}


def _request(fields: dict[str, Schema], required: Sequence[str]) -> Schema:
    """All fields may be null, which is as if they were left out, but those that are required."""
    properties = {
        name: schema if name in required else _or_null(schema) for name, schema in fields.items()
    }
    return _object(required, **properties)


def _answer(kind: str, choice: Schema) -> Schema:
    return _object(
        ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"],
        id=_TEXT,
        object={"const": kind},
        created=_COUNT,
        model=_TEXT,
        system_fingerprint=_TEXT,
        choices=_list(choice, 1),
        usage=_USAGE,
    )


def _schemas(models: Sequence[str]) -> dict[str, Schema]:
    model = {"type": "string", "enum": list(models)}
    return {
        "Error": _object(
            ["error"],
            error=_object(
                ["message", "type", "param", "code"],
                message=_TEXT,
                type=_TEXT,
                param=_or_null(_TEXT),
                code=_or_null(_TEXT),
            ),
        ),
        "Model": _object(
            ["id", "object", "created", "owned_by"],
            id=model,
            object={"const": "model"},
            created=_COUNT,
            owned_by=_TEXT,
            system_fingerprint=_TEXT,
            dimensions=_COUNT,
        ),
        "Models": _object(["object", "data"], object={"const": "list"}, data=_list(_of("Model"))),
        "ChatRequest": _request(
            {
                "messages": _list(_MESSAGE, 1),
                "model": model,
                "max_completion_tokens": _TOKENS,
                "max_tokens": {},  # not looked at beside the other one
                "n": _whole(1, 16),
                "logprobs": _FLAG,
                "top_logprobs": _whole(0, 20),
                "parallel_tool_calls": _FLAG,
                **_PROMPT,
                "stream_options": _STREAM_OPTIONS,
                **_SAMPLING,
            },
            ["messages"],
        ),
        "ChatAnswer": _answer(
            "chat.completion",
            _object(
                ["index", "message", "finish_reason"],
                index=_COUNT,
                message=_object(
                    ["role", "content"],
                    role={"const": "assistant"},
                    content=_or_null(_TEXT),
                    reasoning_content=_TEXT,
                    tool_calls=_list(_CALL),
                ),
                finish_reason=_FINISH,
            ),
        ),
        "CompletionRequest": _request(
            {
                "prompt": {"anyOf": [_SOME, _list(_SOME, 1, 64), _IDS, _list(_IDS, 1, 64)]},
                "model": model,
                "max_tokens": _TOKENS,
                "n": _whole(1, 16),
                "logprobs": _whole(0, 5),
                "echo": _FLAG,
                "response_format": _FORM,
                "stream_options": _STREAM_OPTIONS,
                **_SAMPLING,
            },
            ["prompt"],
        ),
        "CompletionAnswer": _answer(
            "text_completion",
            _object(
                ["index", "text", "finish_reason"],
                index=_COUNT,
                text=_TEXT,
                finish_reason=_FINISH,
            ),
        ),
        "EmbeddingRequest": _request(
            {
                "input": {"anyOf": [_TEXT, _list(_TEXT, 1, 2048), _IDS, _list(_IDS, 1, 2048)]},
                "model": model,
                "encoding_format": {"enum": ["float", "base64"]},
                "dimensions": _whole(1, 2**20),
                "mode": {"enum": ["query", "document"]},
                "truncate": _FLAG,
            },
            ["input"],
        ),
        "EmbeddingAnswer": _object(
            ["object", "data", "model", "usage"],
            object={"const": "list"},
            model=_TEXT,
            usage=_USAGE,
            data=_list(
                _object(
                    ["object", "index", "embedding"],
                    object={"const": "embedding"},
                    index=_COUNT,
                    embedding={"anyOf": [_list({"type": "number"}), _TEXT]},
                    tokens=_COUNT,
                    key=_TEXT,
                )
            ),
        ),
        "TokenizeRequest": {
            "oneOf": [
                _request({"messages": _list(_MESSAGE, 1), "model": model, **_PROMPT}, ["messages"]),
                _request({"prompt": _SOME, "model": model}, ["prompt"]),
                _request(
                    {"input": _TEXT, "model": model, "mode": {"enum": ["query", "document"]}},
                    ["input"],
                ),
            ]
        },
        "TokenizeAnswer": _object(["count", "tokens"], count=_COUNT, tokens=_list(_COUNT)),
        "ResponseRequest": _request(
            {
                "input": {"anyOf": [_TEXT, _list(_ITEM, 1)]},
                "model": model,
                "instructions": _TEXT,
                "max_output_tokens": _TOKENS,
                "text": _object(format=_or_null(_ANY)),
                "tools": _list(_ANY),
                "tool_choice": {"anyOf": [{"enum": ["none", "auto", "required"]}, _ANY]},
                "parallel_tool_calls": _FLAG,
                "reasoning": _object(effort=_or_null(_TEXT)),
                "include": _list({}),
                "top_logprobs": _whole(0, 20),
                "store": {"const": False},
                "metadata": _ANY,
                **_SAMPLING,
            },
            ["input"],
        ),
        "ResponseAnswer": _object(
            ["id", "object", "created_at", "status", "model", "output", "usage"],
            id=_TEXT,
            object={"const": "response"},
            created_at=_COUNT,
            status={"enum": ["completed", "incomplete"]},
            model=_TEXT,
            output=_list(_ANY),
            usage=_ANY,
        ),
    }


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


_ERRORS: dict[str, str] = {
    "400": "A field is not allowed; `param` names it.",
    "404": "There is no such model.",
    "413": "The body is too large.",
    "500": "Computing it failed.",
    "502": "The server of a remote model failed, or sent what is no answer.",
    "503": "The queue is full, or the model is not ready, or its server away or overloaded.",
    "504": "It took too long, or it is not in the cache and may not be computed.",
}
_MODE = {
    "name": "x-asteady-cache-mode",
    "in": "header",
    "description": "How the cache is used.",
    "schema": {"enum": ["use", "refresh", "bypass", "only"]},
}
_HEADERS = {
    "x-asteady-cache": {"description": "Where the answer comes from.", "schema": _TEXT},
    "x-asteady-key": {"description": "The answer's key in the cache.", "schema": _TEXT},
}


def _refusals(*statuses: str) -> Schema:
    return {
        status: {"description": _ERRORS[status], "content": _json(_of("Error"))}
        for status in statuses
    }


def _post(summary: str, name: str, *, streams: bool = True) -> Schema:
    content = _json(_of(f"{name}Answer"))
    if streams:
        content["text/event-stream"] = {}
    return {
        "post": {
            "summary": summary,
            "operationId": f"create{name}",
            "parameters": [_MODE],
            "requestBody": {"required": True, "content": _json(_of(f"{name}Request"))},
            "responses": {
                "200": {"description": "The answer.", "headers": _HEADERS, "content": content},
                **_refusals(*_ERRORS),
            },
        }
    }


def description(server: str, models: Sequence[str]) -> Schema:
    """The whole description; `server` is the path or address that the API is mounted at."""
    found = {"description": "What is served.", "content": _json(_of("Models"))}
    one = {"description": "It is served.", "content": _json(_of("Model"))}
    name = {
        "name": "name",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "enum": list(models)},
    }
    kind = {
        "name": "kind",
        "in": "query",
        "description": "With it the record has the fingerprint of the model as one of this kind.",
        "schema": {"enum": list(KINDS)},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "asteady", "version": version("asteady")},
        "servers": [{"url": server or "/"}],
        "paths": {
            "/models": {
                "get": {
                    "summary": "The models that a request may name",
                    "operationId": "listModels",
                    "responses": {"200": found},
                }
            },
            "/models/{name}": {
                "get": {
                    "summary": "One model",
                    "operationId": "showModel",
                    "parameters": [name, kind],
                    "responses": {"200": one, **_refusals("400", "404", "502", "503", "504")},
                }
            },
            "/chat/completions": _post("The next message of a conversation", "Chat"),
            "/completions": _post("The continuation of a text", "Completion"),
            "/embeddings": _post("Vectors of texts", "Embedding", streams=False),
            "/tokenize": _post("The tokens of a prompt or a text", "Tokenize", streams=False),
            "/responses": _post("As /chat/completions, in OpenAI's newer form", "Response"),
        },
        "components": {"schemas": _schemas(models)},
    }
