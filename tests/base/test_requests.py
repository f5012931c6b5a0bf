"""Requests: validated once, canonical, and named by keys that do not collide."""

from __future__ import annotations

import itertools
import unicodedata
from decimal import Decimal
from fractions import Fraction
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, strategies as st

from asteady._base.constraints import constraint_of
from asteady._base.errors import InvalidRequestError, PromptTooLongError
from asteady._base.messages import MAX_MESSAGES, Message
from asteady._base.options import EmbedOptions, GenerateOptions, check_options
from asteady._base.requests import (
    LARGE_CHARACTERS,
    MAX_PREFIX_CHARACTERS,
    DeclaredPrefix,
    EmbedRequest,
    GenerateRequest,
    is_large,
    may_be_large,
    repr_parts,
)
from asteady._base.validation import SLICE, refuse, shorten

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
# Few values for each option, so that equal requests come up as well as different ones.
options = st.fixed_dictionaries(
    {},
    optional={
        "raw": st.booleans(),
        "seed": st.sampled_from([0, 1, 42]),
        "max_new_tokens": st.sampled_from([1, 42]),
        "temperature": st.sampled_from([0, 0.0, -0.0, 1, 1.0, 0.5]),
        "top_k": st.sampled_from([0, 1]),
        "top_p": st.sampled_from([1, 1.0, 0.5]),
        "stop": st.one_of(st.none(), texts, st.lists(texts, max_size=2)),
        "logprobs": st.sampled_from([None, 0, 1]),
        "logit_bias": st.one_of(st.none(), st.just({}), st.just({1: 1}), st.just({1: 1.0})),
    },
)
prompts = st.one_of(texts, st.sampled_from(["a", "b", "1"]))


def test_numbers_of_numpy_are_the_plain_numbers() -> None:
    plain = GenerateRequest.of(
        "a", seed=7, max_new_tokens=9, temperature=0.5, top_k=3, logprobs=2, logit_bias={5: 1.5}
    )
    numpys: dict[str, Any] = {
        "seed": np.int64(7),
        "max_new_tokens": np.uint8(9),
        "temperature": np.float32(0.5),
        "top_k": np.array(3),
        "logprobs": np.int32(2),
        "logit_bias": {np.int16(5): np.float16(1.5)},
        "top_p": np.array(1.0),
        "min_p": np.longdouble(0),
        "typical_p": Decimal("1.0"),
        "repeat_penalty": Fraction(3, 3),
    }
    request = GenerateRequest.of("a", **numpys)
    assert request.key("f") == plain.key("f")
    assert repr(request) == repr(plain), "the types are plain too"
    dimensions: Any = np.int64(4)
    assert EmbedRequest.of("a", dimensions=dimensions) == EmbedRequest.of("a", dimensions=4)


def test_the_ids_of_biases_are_numbers_or_their_texts() -> None:
    assert GenerateRequest.of("a", logit_bias={"7": 1, "12": -1}) == GenerateRequest.of(
        "a", logit_bias={12: -1, 7: 1}
    )
    twice: Any = {"7": 1, 7: 2}
    with pytest.raises(InvalidRequestError, match="token 7 is there twice"):
        GenerateRequest.of("a", logit_bias=twice)


@pytest.mark.parametrize(
    "token", ["", "x", "-1", "1.0", "7 ", "\u0667", "9" * 5000, True, 1.0, None]
)
def test_what_is_no_token_id_has_no_bias(token: Any) -> None:
    with pytest.raises(InvalidRequestError, match="logit_bias token="):
        GenerateRequest.of("a", logit_bias={token: 1})


def test_numbers_that_only_float32_rounds_together_are_different_requests() -> None:
    plain, numpys = GenerateRequest.of("a", temperature=0.7), np.float32(0.7)
    assert np.float32(plain.temperature) == numpys
    assert GenerateRequest.of("a", temperature=numpys).key("f") != plain.key("f")
    assert GenerateRequest.of("a", temperature=1e-40).key("f") != GenerateRequest.of("a").key("f")


def test_none_stands_for_every_default() -> None:
    nothing: dict[str, Any] = dict.fromkeys(GenerateOptions.__annotations__)
    assert len(nothing) > 15
    assert GenerateRequest.of("x", **nothing) == GenerateRequest.of("x")
    nothing = dict.fromkeys(EmbedOptions.__annotations__)
    assert EmbedRequest.of("x", **nothing) == EmbedRequest.of("x")


@pytest.mark.parametrize(
    "bad",
    [
        {"seed": np.bool_(True)},
        {"seed": np.float64(7)},
        {"seed": np.array([7, 8])},
        {"seed": np.int64(-1)},
        {"temperature": np.bool_(True)},
        {"temperature": np.float64("nan")},
        {"temperature": np.array([0.5])},
        {"temperature": 10**400},
        {"temperature": 1j},
        {"temperature": np.array(True)},
        {"temperature": np.array("0.5")},
        {"temperature": Decimal("NaN")},
        {"temperature": Decimal("sNaN")},
        {"temperature": Decimal("1e400")},
        {"seed": np.array(True)},
        {"seed": np.array(7.0)},
        {"seed": Decimal(7)},
        {"seed": 7.0},
        {"temperature": "0.5"},
    ],
)
def test_what_is_no_number_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match=next(iter(bad))):
        GenerateRequest.of("a", **bad)


@pytest.mark.parametrize("prompt", [[{"role": "user", "content": "hi"}], {"role": "user"}, [], ()])
def test_messages_in_place_of_a_prompt_are_told_their_name(prompt: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"messages=\[\.\.\.\]"):
        GenerateRequest.of(prompt)


@given(prompts, options, prompts, options)
def test_keys_are_equal_if_and_only_if_requests_are(
    prompt: str, some: dict[str, Any], other_prompt: str, other: dict[str, Any]
) -> None:
    first = GenerateRequest.of(prompt, **some)
    second = GenerateRequest.of(other_prompt, **other)
    assert (first.key("f") == second.key("f")) == (first == second)


@given(st.lists(texts, min_size=1, max_size=4), st.lists(texts, min_size=1, max_size=4))
def test_message_boundaries_are_part_of_the_key(one: list[str], two: list[str]) -> None:
    def request(contents: list[str]) -> GenerateRequest:
        return GenerateRequest.of(messages=[{"role": "user", "content": c} for c in contents])

    assert (request(one).key("f") == request(two).key("f")) == (one == two)


@given(texts, texts, texts, texts)
def test_fingerprint_and_prompt_do_not_run_together(a: str, b: str, c: str, d: str) -> None:
    same = GenerateRequest.of(b).key(a) == GenerateRequest.of(d).key(c)
    assert same == ((a, b) == (c, d))


def test_unicode_normal_forms_stay_apart() -> None:
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    assert GenerateRequest.of(composed).key("f") != GenerateRequest.of(decomposed).key("f")
    assert EmbedRequest.of(composed).key("f") != EmbedRequest.of(decomposed).key("f")


def test_what_looks_like_another_field_does_not_collide() -> None:
    keys = {
        GenerateRequest.of("hi", temperature=0.5).key("f"),
        GenerateRequest.of("hi::TEMP::0.5").key("f"),
        GenerateRequest.of("hi', 0.5").key("f"),
        GenerateRequest.of("hi", stop="a,b").key("f"),
        GenerateRequest.of("hi", stop=["a", "b"]).key("f"),
        GenerateRequest.of(messages=[{"role": "user", "content": "hi"}]).key("f"),
        GenerateRequest.of("hi", raw=True).key("f"),
        EmbedRequest.of("hi").key("f"),
    }
    assert len(keys) == 8


@pytest.mark.parametrize("field", [field.name for field in attrs.fields(GenerateRequest)])
def test_every_field_is_part_of_the_key(field: str) -> None:
    request = GenerateRequest.of("hi")
    changes: Any = {field: "something else"}
    if field == "messages":
        changes[field] = (Message(role="user", content="something else"),)
    if field == "constraint":
        changes[field] = constraint_of(choices=["something else"])
    changed = attrs.evolve(request, **changes)
    assert changed.key("f") != request.key("f")


def test_two_ways_to_say_the_same_are_one_request() -> None:
    said = GenerateRequest.of("hi", temperature=1, stop="x")
    assert said == GenerateRequest.of("hi", temperature=1.0, stop=["x", "x"])
    assert GenerateRequest.of("hi", stop=["a", "b"]) == GenerateRequest.of("hi", stop=("b", "a"))
    for stop, eos_string in (("x", "[EOS]"), (None, "x"), ("x", "x"), (["x"], Shouting("x"))):
        other = GenerateRequest.of("hi", temperature=1, stop=stop, eos_string=eos_string)
        assert other == said
        assert other.key("f") == said.key("f")
    both = GenerateRequest.of("hi", stop=["b", "c"], eos_string="a")
    assert both == GenerateRequest.of("hi", stop=["a", "b", "c"])
    assert GenerateRequest.of("hi", eos_string="[EOS]") == GenerateRequest.of("hi")
    assert GenerateRequest.of("hi", stop="[EOS]") != GenerateRequest.of("hi")
    assert GenerateRequest.of("hi", temperature=-0.0) == GenerateRequest.of("hi")


class Shouting(str):
    def __str__(self) -> str:
        return self.upper()

    def __repr__(self) -> str:
        return "the same for all"


def test_a_subclass_of_str_is_taken_for_its_text() -> None:
    request = GenerateRequest.of(Shouting("hi"))
    assert type(request.prompt) is str
    assert request.key("f") == GenerateRequest.of("hi").key("f")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"seed": "1"}, "seed='1'"),
        ({"seed": True}, "seed=True"),
        ({"seed": 1.0}, "seed=1.0"),
        ({"seed": -1}, "seed=-1 is not allowed: a whole number from 0 to 4294967294"),
        ({"seed": 2**32 - 1}, "seed=4294967295"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": "hot"}, "temperature='hot'"),
        ({"temperature": True}, "temperature=True"),
        ({"top_p": 1.5}, r"top_p=1.5 is not allowed: a number from 0 to 1"),
        ({"min_p": -0.1}, "min_p=-0.1"),
        ({"stop": ""}, "stop=''"),
        ({"stop": 5}, "stop=5"),
        ({"stop": [5]}, "stop=5"),
        ({"stop": {"a": 1}}, "stop="),
        ({"stop": "a" * 1001}, r"stop='aaa.*1001 characters.*at most 1000"),
        ({"eos_string": "a" * 1001}, "1001 characters"),
        ({"stop": [str(number) for number in range(101)]}, "101 stop strings.*at most 100"),
        ({"eos_string": ""}, "eos_string='' is not allowed: at least one character"),
        ({"eos_string": 5}, "eos_string=5 is not allowed: a str is needed, not int"),
        ({"eos_string": ["x"]}, "eos_string="),
        ({"raw": 1}, "raw=1"),
        ({"logprobs": -1}, "logprobs=-1"),
        ({"logit_bias": [1]}, "logit_bias="),
        ({"logit_bias": {"a": 1}}, "logit_bias token='a'"),
        ({"logit_bias": {1: 1000}}, "logit_bias"),
    ],
)
def test_a_bad_argument_is_named_with_its_value(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequestError, match=named.replace("[", r"\[")):
        GenerateRequest.of("hi", **arguments)


@pytest.mark.parametrize("prompt", ["", 5, b"bytes", "\ud800"])
def test_a_prompt_is_text(prompt: Any) -> None:
    with pytest.raises(InvalidRequestError, match="prompt="):
        GenerateRequest.of(prompt)


@pytest.mark.parametrize(
    ("messages", "named"),
    [
        ([], "at least one message"),
        ("hi", "messages='hi'"),
        (5, "messages=5"),
        ({"role": "user", "content": "hi"}, "messages="),
        (["hi"], r"messages\[0\]='hi'"),
        ([{"role": "user"}], r"messages\[0\]\['content'\]=None"),
        ([{"content": "hi"}], r"messages\[0\]\['role'\]=None"),
        ([{"role": "", "content": "hi"}], r"messages\[0\]\['role'\]"),
        ([{"role": "user", "content": None}], r"messages\[0\]\['content'\]=None"),
    ],
)
def test_bad_messages_are_named(messages: Any, named: str) -> None:
    with pytest.raises(InvalidRequestError, match=named):
        GenerateRequest.of(messages=messages)


def test_either_a_prompt_or_messages() -> None:
    messages = [{"role": "user", "content": "hi"}]
    with pytest.raises(InvalidRequestError, match="neither"):
        GenerateRequest.of()
    with pytest.raises(InvalidRequestError, match="both"):
        GenerateRequest.of("hi", messages=messages)
    with pytest.raises(InvalidRequestError, match="raw=True"):
        GenerateRequest.of(messages=messages, raw=True)


def test_a_long_value_is_shown_short() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        GenerateRequest.of("hi", seed="x" * 10_000)  # type: ignore[arg-type]  # what is tested
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "arguments", [{"truncate": 1}, {"dimensions": 0}, {"dimensions": "8"}, {"mode": "answer"}]
)
def test_bad_embed_options_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match=next(iter(arguments))):
        EmbedRequest.of("hi", **arguments)


@given(texts, texts, st.booleans(), st.booleans())
def test_embed_keys_are_equal_if_and_only_if_requests_are(
    text: str, other: str, truncate: bool, other_truncate: bool
) -> None:
    first = EmbedRequest.of(text, truncate=truncate)
    second = EmbedRequest.of(other, truncate=other_truncate)
    assert (first.key("f") == second.key("f")) == (first == second)


def test_an_unknown_option_gets_the_name_that_was_meant() -> None:
    named = r"generate\(\) has no option 'max_tokens'; it is called 'max_new_tokens' here"
    with pytest.raises(InvalidRequestError, match=named):
        check_options("generate", {"max_tokens": 5}, ["max_new_tokens", "seed"])
    with pytest.raises(InvalidRequestError, match="it has: max_new_tokens, seed"):
        check_options("generate", {"qqq": 5}, ["max_new_tokens", "seed"])


values = st.recursive(
    st.one_of(
        st.text(alphabet="a'\"\\\n\x00é漢\U0001f600\x85", max_size=20), st.integers(), st.none()
    ),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=8,
)


@given(values)
def test_the_parts_of_a_repr_are_the_repr(value: object) -> None:
    assert "".join(repr_parts(value, 3)) == repr(value)


@pytest.mark.parametrize(
    "text", ['it\'s "so" ', "it's ", '"so" ', "é\n"], ids=["both", "single", "double", "none"]
)
def test_a_large_request_has_the_key_that_it_would_have_if_it_were_small(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = text * (LARGE_CHARACTERS // len(text) + 1)
    requests = (
        GenerateRequest.of(large),
        GenerateRequest.of(messages=[{"role": "user", "content": large}]),
        EmbedRequest.of(large),
    )
    assert [is_large(request) for request in requests] == [True] * 3
    keys = [request.key("f") for request in requests]
    monkeypatch.setattr("asteady._base.requests.LARGE_CHARACTERS", 10**9)
    assert [is_large(request) for request in requests] == [False] * 3
    assert keys == [request.key("f") for request in requests]


def test_arguments_are_known_to_be_large_before_they_are_validated() -> None:
    large = "x" * (LARGE_CHARACTERS + 1)
    assert may_be_large(large)
    assert not may_be_large(large[:-1])
    assert may_be_large(None, [{"role": "user", "content": large}])
    assert may_be_large(None, [{}] * LARGE_CHARACTERS)
    assert may_be_large(None, [{"content": [{"type": "text", "text": "x"}] * 2000}])
    assert may_be_large("x", options=[5, None, {"a": [(), {"b": [0] * LARGE_CHARACTERS}]}])
    for messages in (None, 5, [], [large[:-300], 5, {"content": 5}], iter([{"content": large}])):
        assert not may_be_large(None, messages)


def test_a_lone_surrogate_anywhere_is_refused() -> None:
    for place in (0, SLICE - 1, SLICE, 3 * SLICE):
        text = "x" * place + "\ud800" + "x" * SLICE
        with pytest.raises(InvalidRequestError, match=r"'\\ud800'"):
            GenerateRequest.of(text)


@given(
    st.recursive(
        st.one_of(st.text(), st.binary(), st.integers(), st.none()),
        lambda inner: (
            st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner)
        ),
        max_leaves=60,
    )
)
def test_what_is_refused_is_shown_as_it_is(value: object) -> None:
    expected = f"x={shorten(repr(value), 80)} is not allowed: y"
    assert str(refuse("x", value, "y")) == expected


def test_there_is_a_limit_to_the_number_of_messages_and_to_a_prefix() -> None:
    message = {"role": "user", "content": "x"}
    assert len(GenerateRequest.of(messages=[message] * MAX_MESSAGES).messages) == MAX_MESSAGES
    with pytest.raises(PromptTooLongError, match="more than 100,000 messages"):
        GenerateRequest.of(messages=itertools.repeat(message))  # type: ignore[arg-type]  # endless
    DeclaredPrefix.of("x" * MAX_PREFIX_CHARACTERS)
    with pytest.raises(PromptTooLongError, match="a prefix of 4,194,305 characters"):
        DeclaredPrefix.of("x" * (MAX_PREFIX_CHARACTERS + 1))
