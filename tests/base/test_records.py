"""Records as JSON, as copies, and as types of pydantic."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Any

import attrs
import numpy as np
import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

import asteady
from asteady import (
    Completion,
    Embedding,
    InvalidRequestError,
    Message,
    TokenLogprob,
    TypedCompletion,
)

LOGPROBS = (
    TokenLogprob(token_id=1, token="é".encode(), logprob=-0.5),
    # The first bytes of an emoji are no text.
    TokenLogprob(
        token_id=2, token=b"\xf0\x9f", logprob=-1.0, top=((2, b"\xf0\x9f", -1.0), (3, b"a", -2.0))
    ),
)
COMPLETION = Completion(
    text="Hé",
    chunks=("H", "é"),
    finish_reason="stop",
    prompt_tokens=3,
    completion_tokens=4,
    logprobs=LOGPROBS,
    seed=42,
    model="builtin",
    fingerprint="ab",
    cost_s=0.5,
    reused_tokens=2,
    reasoning="so",
    reasoning_chunks=("s", "o"),
    reasoning_tokens=2,
)
AS_DICT = {
    "text": "Hé",
    "chunks": ["H", "é"],
    "finish_reason": "stop",
    "prompt_tokens": 3,
    "completion_tokens": 4,
    "logprobs": [
        {"token_id": 1, "token": "é", "logprob": -0.5, "top": []},
        {
            "token_id": 2,
            "token": [240, 159],
            "logprob": -1.0,
            "top": [[2, [240, 159], -1.0], [3, "a", -2.0]],
        },
    ],
    "seed": 42,
    "model": "builtin",
    "fingerprint": "ab",
    "cost_s": 0.5,
    "cached": False,
    "reused_tokens": 2,
    "reasoning": "so",
    "reasoning_chunks": ["s", "o"],
    "reasoning_tokens": 2,
    "tool_calls": [],
}


def embedding() -> Embedding:
    vector = np.array([0.6, 0.8], np.float32)
    vector.flags.writeable = False
    return Embedding(vector=vector, tokens=2, model="builtin", fingerprint="ab", cost_s=0.5)


def check_same(found: Embedding, given: Embedding) -> None:
    assert found.vector.dtype == np.float32
    assert found.vector.tobytes() == given.vector.tobytes()
    assert not found.vector.flags.writeable
    assert found.as_dict() == given.as_dict()


class Color(Enum):
    RED = "red"


class Invoice(BaseModel):
    total: int


@attrs.frozen
class Line:
    label: str
    parts: tuple[Decimal, ...]


TYPED = TypedCompletion.of(COMPLETION, Invoice(total=7))


class Reply(BaseModel):
    answer: Completion
    others: list[Completion] = []
    embedding: Embedding | None = None
    vector: asteady.Vector | None = None


def test_a_completion_is_a_dictionary_for_json() -> None:
    assert COMPLETION.as_dict() == AS_DICT
    assert json.loads(json.dumps(COMPLETION.as_dict())) == AS_DICT
    assert dict(COMPLETION) == AS_DICT
    with pytest.raises(KeyError, match="as_dict"):
        COMPLETION["as_dict"]


def test_what_is_read_back_is_equal() -> None:
    read = Completion.from_dict(json.loads(json.dumps(AS_DICT)))
    assert attrs.asdict(read) == attrs.asdict(COMPLETION)  # what == does not compare, too
    least = {name: AS_DICT[name] for name in ("text", "chunks", "finish_reason", "model")}
    least |= {"prompt_tokens": 1, "completion_tokens": 1, "seed": 1, "fingerprint": "a"}
    read = Completion.from_dict({**least, "cost_s": 1, "unknown": 1})
    assert (read.logprobs, read.cost_s, type(read.cost_s)) == (None, 1.0, float)


def test_a_vector_is_a_list_of_numbers_and_read_back_bit_for_bit() -> None:
    given = embedding()
    assert given.as_dict() == {
        "vector": [float(np.float32(0.6)), float(np.float32(0.8))],
        "tokens": 2,
        "truncated": False,
        "model": "builtin",
        "fingerprint": "ab",
        "cost_s": 0.5,
        "cached": False,
    }
    check_same(Embedding.from_dict(json.loads(json.dumps(given.as_dict()))), given)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"Completion=\[\] .*a mapping is needed, not list"),
        ({}, "Completion.text is missing"),
        ({**AS_DICT, "text": 5}, "Completion.text=5 .*str is needed, not int"),
        ({**AS_DICT, "chunks": "Hé"}, "Completion.chunks='Hé' .*a list"),
        ({**AS_DICT, "cached": 1}, "Completion.cached=1 .*bool is needed"),
        ({**AS_DICT, "seed": True}, "Completion.seed=True .*int is needed"),
        ({**AS_DICT, "reasoning": 5}, "Completion.reasoning=5 .*str is needed"),
        ({**AS_DICT, "finish_reason": "no"}, 'one of "stop", "length"'),
        ({**AS_DICT, "logprobs": [{"token_id": 1}]}, r"Completion.logprobs\[0\].token is missing"),
        (
            {**AS_DICT, "logprobs": [{"token_id": 1, "token": [300], "logprob": 0}]},
            r"logprobs\[0\].token=\[300\] .*range",
        ),
        (
            {**AS_DICT, "logprobs": [{"token_id": 1, "token": "", "logprob": 0, "top": [[1, ""]]}]},
            r"logprobs\[0\].top\[0\]=.* a list of 3",
        ),
    ],
)
def test_what_cannot_be_read_is_named(values: Any, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        Completion.from_dict(values)


@pytest.mark.parametrize("do", [copy.copy, copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))])
def test_records_can_be_copied_and_pickled(do: Callable[[Any], Any]) -> None:
    found = do(COMPLETION)
    assert attrs.asdict(found) == attrs.asdict(COMPLETION)
    assert do(TYPED) == TYPED
    given = embedding()
    check_same(do(given), given)


def test_pydantic_and_numpy_are_not_needed() -> None:
    program = f"""
import sys
sys.modules.update(dict.fromkeys(["pydantic", "pydantic_core"]))
import asteady
values = {AS_DICT!r}
assert asteady.Completion.from_dict(values).as_dict() == values
assert "numpy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.anyio
async def test_statistics_are_dictionaries_for_json(session: asteady.Session) -> None:
    await session.generate("hi")
    statistics = session.statistics()
    found = json.loads(json.dumps(statistics.as_dict()))
    assert found["state"] == "open"
    assert found["pools"]["generation:builtin"]["finished"] == 1
    assert asteady.SessionStatistics.from_dict(found) == statistics
    entry = (await session.cache.generation.entries())[0]
    assert json.loads(json.dumps(entry.as_dict()))["key"] == entry.key
    counts = await session.namespace("a").statistics()
    assert counts.as_dict()["generation"]["entries"] == 0


def test_a_field_of_a_users_model_takes_instances_dictionaries_and_json() -> None:
    given = embedding()
    reply = Reply(answer=COMPLETION, others=[COMPLETION], embedding=given, vector=given.vector)
    assert reply.answer is COMPLETION
    assert reply.embedding is given
    dumped = reply.model_dump(mode="json")
    assert dumped["answer"] == AS_DICT
    assert dumped["embedding"] == given.as_dict()
    assert json.loads(reply.model_dump_json()) == dumped
    for read in (
        Reply.model_validate(dumped),
        Reply.model_validate(reply.model_dump()),
        Reply.model_validate_json(reply.model_dump_json()),
    ):
        assert attrs.asdict(read.answer) == attrs.asdict(COMPLETION)
        assert read.others == [COMPLETION]
        assert read.embedding is not None
        check_same(read.embedding, given)
        assert read.vector is not None
        assert read.vector.tobytes() == given.vector.tobytes()


def test_pydantic_names_the_field_that_is_wrong() -> None:
    with pytest.raises(ValidationError) as caught:
        Reply.model_validate({"answer": {**AS_DICT, "logprobs": [{"token": [300]}]}})
    places = [error["loc"][:4] for error in caught.value.errors()]
    assert ("answer", "logprobs", 0, "token_id") in places
    assert ("answer", "logprobs", 0, "token") in places


def test_fields_can_be_left_out_of_what_is_dumped() -> None:
    dumped = Reply(answer=COMPLETION).model_dump(
        include={"answer"}, exclude={"answer": {"chunks", "logprobs"}}
    )
    assert dumped["answer"].keys() == AS_DICT.keys() - {"chunks", "logprobs"}


def test_each_kind_of_a_union_is_dumped_as_itself() -> None:
    answers: TypeAdapter[Any] = TypeAdapter(list[Embedding | Completion | str | None])
    given = embedding()
    assert answers.dump_python([COMPLETION, given, "hi", None], mode="json") == [
        AS_DICT,
        given.as_dict(),
        "hi",
        None,
    ]
    with pytest.warns(UserWarning, match="Completion is expected"):
        assert TypeAdapter[Any](Completion).dump_python("hi") == "hi"


def test_the_json_schema_has_all_fields_and_says_which_can_be_missing() -> None:
    completion = TypeAdapter(Completion)
    read, written = completion.json_schema(), completion.json_schema(mode="serialization")
    assert list(read["properties"]) == list(written["properties"]) == list(AS_DICT)
    assert read["required"] == [
        field.name for field in attrs.fields(Completion) if field.default is attrs.NOTHING
    ]
    assert written["required"] == list(AS_DICT)
    assert read["title"] == "Completion"
    assert read["description"].startswith("The immutable answer to a `GenerateRequest`.\n\n``")
    assert written["properties"]["logprobs"]["anyOf"][0]["items"] == {
        "$ref": "#/$defs/TokenLogprob"
    }
    token = written["$defs"]["TokenLogprob"]["properties"]["token"]
    assert token["anyOf"] == [
        {"type": "string"},
        {"type": "array", "items": {"type": "integer"}},
    ]
    vector = TypeAdapter(Embedding).json_schema()["properties"]["vector"]
    assert (vector["type"], vector["items"]) == ("array", {"type": "number"})


def test_the_value_of_a_typed_completion_comes_along() -> None:
    assert TYPED.as_dict() == {**AS_DICT, "value": {"total": 7}}
    assert TypedCompletion.from_dict(TYPED.as_dict()).value == {"total": 7}
    typed: TypeAdapter[Any] = TypeAdapter(TypedCompletion[Invoice])
    assert typed.validate_json(typed.dump_json(TYPED)) == TYPED
    assert typed.json_schema()["properties"]["value"] == {"$ref": "#/$defs/Invoice"}
    both: TypeAdapter[Any] = TypeAdapter(list[TypedCompletion[Invoice] | TypedCompletion[int]])
    assert len(both.json_schema()["$defs"]) == 5
    assert TypeAdapter(TypedCompletion).dump_python(TYPED)["value"] == {"total": 7}
    # As pydantic does with a subclass of its own: what the type has.
    assert TypeAdapter(Completion).dump_python(TYPED, mode="json") == AS_DICT


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Line("a", (Decimal("1.5"),)), {"label": "a", "parts": ["1.5"]}),
        ([Invoice(total=1)], [{"total": 1}]),
        ({"a": np.float32(0.5)}, {"a": 0.5}),
        (Color.RED, "red"),
        ({3}, [3]),
        ({Color.RED: Color.RED, date(2024, 1, 2): 1}, {"red": "red", "2024-01-02": 1}),
        ({1: True}, {1: True}),
        (None, None),
    ],
)
def test_values_of_all_types_that_a_schema_can_have_are_plain(value: Any, plain: Any) -> None:
    found = TypedCompletion.of(COMPLETION, value).as_dict()
    assert found["value"] == plain
    json.dumps(found)


def test_messages_are_fields_of_a_users_model() -> None:
    class Question(BaseModel):
        messages: list[Message]

    given = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "2 + 2?"}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "1",
                        "type": "function",
                        "function": {"name": "add", "arguments": '{"x":2}'},
                    }
                ],
            },
            {"role": "tool", "content": "4", "tool_call_id": "1"},
        ]
    }
    question = Question.model_validate_json(json.dumps(given))
    assert question.messages[0] == Message(role="user", content="2 + 2?")
    assert question.messages[1].tool_calls[0].name == "add"
    dumped = question.model_dump()
    assert dumped["messages"][1:] == given["messages"][1:]
    assert Question.model_validate(dumped) == question
    assert Question(messages=question.messages) == question
    schema = Question.model_json_schema()["properties"]["messages"]["items"]
    assert schema["properties"].keys() == attrs.fields_dict(Message).keys()
    with pytest.raises(ValidationError, match="models here read text only"):
        Question.model_validate(
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}
        )
