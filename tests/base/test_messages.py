"""Messages: what is accepted, its canonical form, and what is refused."""

from __future__ import annotations

import hashlib
import json
import logging
from typing import Any

import pytest
from hypothesis import given, strategies as st

from asteady import GenerateRequest, InvalidRequestError, Message, ToolCall
from asteady._base.messages import messages_of

CALL = {"id": "a", "type": "function", "function": {"name": "add", "arguments": '{"x": 1, "b": 2}'}}
USER = {"role": "user", "content": "hi"}


def one(message: Any) -> Message:
    return messages_of([message, USER])[0]


def key_of(*messages: Any, **options: Any) -> str:
    return GenerateRequest.of(messages=messages, **options).key("f")


def of_pairs(*pairs: tuple[str, str]) -> str:
    fields = (None, pairs, False, 42, 512, 0.0, 0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, (), (), None, None)
    return hashlib.sha256(repr((1, "generate", "f", fields)).encode()).hexdigest()


def test_keys_of_roles_and_contents_are_those_of_pairs() -> None:
    begun = {"role": "assistant", "content": "a"}
    assert key_of({"role": "system", "content": "a"}, USER) == of_pairs(
        ("system", "a"), ("user", "hi")
    )
    assert key_of(begun, USER) == of_pairs(("assistant", "a"), ("user", "hi"))
    # It is continued, which it was not when keys were first made.
    assert key_of(USER, begun) != of_pairs(("user", "hi"), ("assistant", "a"))


@pytest.mark.parametrize(
    "same",
    [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "user", "content": "hi", "name": None, "tool_calls": None, "audio": None},
        {"role": "user", "content": "hi", "tool_calls": []},
        {"role": "user", "content": "hi", "refusal": "no", "annotations": [1]},
        Message(role="user", content="hi"),
    ],
)
def test_two_ways_to_say_the_same_are_equal_and_have_one_key(same: Any) -> None:
    assert messages_of([same]) == messages_of([USER])
    assert key_of(same) == key_of(USER)


def test_parts_are_lines_of_one_text() -> None:
    parts = [{"type": "text", "text": text} for text in ("a", "b")]
    assert one({"role": "user", "content": parts}).content == "a\nb"


def test_arguments_are_json_or_a_mapping_and_keep_their_order() -> None:
    assert one({"role": "assistant", "content": None, "tool_calls": [CALL]}) == Message(
        role="assistant",
        content=None,
        tool_calls=(ToolCall(id="a", name="add", arguments_json='{"x":1,"b":2}'),),
    )
    mapping = {**CALL, "function": {"name": "add", "arguments": {"x": 1, "b": 2}}}
    assert one({"role": "assistant", "tool_calls": [mapping]}) == one(
        {"role": "assistant", "tool_calls": [CALL]}
    )
    other = {**CALL, "function": {"name": "add", "arguments": {"b": 2, "x": 1}}}
    assert key_of({"role": "assistant", "tool_calls": [other]}, USER) != key_of(
        {"role": "assistant", "tool_calls": [mapping]}, USER
    )
    empty = {"function": {"name": "now", "arguments": ""}}
    assert one({"role": "assistant", "tool_calls": [empty]}).tool_calls[0].arguments_json == "{}"


@pytest.mark.parametrize(
    "more",
    [
        {"name": "Ada"},
        {"tool_call_id": "a"},
        {"reasoning_content": "hm"},
        {"tool_calls": [CALL]},
        {"tool_calls": [{**CALL, "id": "b"}]},
    ],
)
def test_what_a_message_has_more_is_part_of_the_key(more: Any) -> None:
    plain = {"role": "assistant", "content": "hi"}
    assert key_of({**plain, **more}, USER) != key_of(plain, USER)
    assert len({key_of({**plain, **more}, USER), key_of({**plain, "name": "Bob"}, USER)}) == 2


def test_reasoning_has_two_names() -> None:
    message = {"role": "assistant", "content": "hi"}
    assert one({**message, "reasoning": "hm"}) == one({**message, "reasoning_content": "hm"})
    with pytest.raises(InvalidRequestError, match="differ"):
        one({**message, "reasoning": "hm", "reasoning_content": "no"})


class Dumped:
    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def model_dump(self) -> dict[str, Any]:
        return self.fields


def test_objects_of_pydantic_are_accepted_as_messages_parts_and_calls() -> None:
    part = Dumped(type="text", text="hi")
    call = Dumped(id="a", type="function", function=Dumped(**CALL["function"]))  # type: ignore[arg-type]
    found = one(Dumped(role="assistant", content=[part], tool_calls=[call], refusal=None))
    assert found == one({"role": "assistant", "content": "hi", "tool_calls": [CALL]})


def test_ignored_keys_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "asteady")
    messages_of([{**USER, "refusal": "no"}, {**USER, "annotations": [], "refusal": "x"}])
    assert [each.getMessage() for each in caplog.records] == [
        "keys of messages that are ignored: 'annotations', 'refusal'"
    ]


@pytest.mark.parametrize(
    ("message", "match"),
    [
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
            "'image_url' .*tex",
        ),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "'input_audio'"),
        ({"role": "user", "content": [{"type": "file"}]}, "'file'"),
        ({"role": "user", "content": []}, "one part"),
        ({"role": "user", "content": ["hi"]}, r"\['content'\]\[0\]='hi'"),
        ({"role": "user", "content": b"hi"}, "not bytes"),
        ({"role": "user", "content": 5}, "not int"),
        ({"role": "user", "content": "hi", "images": ["x"]}, "images.*text only"),
        ({"role": "assistant", "content": "hi", "audio": {"id": "x"}}, "audio.*text only"),
        ({"role": "assistant", "content": None, "function_call": {}}, "function_call.*tool_calls"),
        ({"role": "assistant", "content": None}, "only tool_calls can be"),
        ({"role": "assistant", "tool_calls": "x"}, "a list of tool calls"),
        ({"role": "assistant", "tool_calls": ["x"]}, r"tool_calls'\]\[0\]='x'"),
        ({"role": "assistant", "tool_calls": [{"type": "custom"}]}, "'custom'"),
        ({"role": "assistant", "tool_calls": [{"id": "a"}]}, r"\['function'\]=None"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": ""}}]}, "one character"),
        (Dumped, "a mapping with the keys"),
    ],
)
def test_what_is_refused_is_named(message: Any, match: str) -> None:
    with pytest.raises(InvalidRequestError, match=match):
        one(message)


@pytest.mark.parametrize(
    "arguments",
    [
        "{",
        "[]",
        "5",
        5,
        "{'a': 1}",
        '{"a": NaN}',
        {1: 2},
        {"a": float("inf")},
        {"a": {3}},
        '{"a": "\\ud800"}',
        {"a": 2**70},
        '{"a":' + "[" * 150 + "]" * 150 + "}",
        "[" * 100_000,
    ],
)
def test_arguments_that_are_no_json_object_are_refused(arguments: Any) -> None:
    call = {"function": {"name": "f", "arguments": arguments}}
    with pytest.raises(InvalidRequestError, match="arguments"):
        one({"role": "assistant", "tool_calls": [call]})


def test_a_failing_model_dump_is_an_error_of_the_request() -> None:
    class Broken:
        def model_dump(self) -> Any:
            raise RuntimeError("no")

    with pytest.raises(InvalidRequestError, match=r"messages\[0\].*RuntimeError"):
        one(Broken())


def test_a_last_message_of_the_assistant_needs_text_and_no_tool_calls() -> None:
    with pytest.raises(InvalidRequestError, match="needs text"):
        messages_of([USER, {"role": "assistant", "content": " "}])
    with pytest.raises(InvalidRequestError, match="add their results"):
        messages_of([USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}])


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
CALLS = st.builds(
    lambda name, arguments: {"function": {"name": name, "arguments": arguments}},
    st.text(min_size=1, max_size=5),
    st.dictionaries(st.text(max_size=5), JSON, max_size=3),
)
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "developer", "tool"]), "content": st.text()},
    optional={
        "name": st.text(),
        "tool_call_id": st.text(),
        "reasoning_content": st.text(),
        "tool_calls": st.lists(CALLS, max_size=2),
    },
)


@given(MESSAGES)
def test_the_canonical_form_is_that_of_what_it_shows(message: dict[str, Any]) -> None:
    found = one(message)
    assert one(found) == one(found.as_dict()) == found
    assert one(json.loads(json.dumps(found.as_dict()))) == found
    assert one(found.for_template()) == found
    assert key_of(found, USER) == key_of(message, USER)


@given(MESSAGES, MESSAGES)
def test_different_messages_have_different_keys(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert (one(a) == one(b)) == (key_of(a, USER) == key_of(b, USER))
