"""Typed answers: schemas, types, choices, regular expressions and grammars, in every call."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import json
import re
import sys
import typing
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, get_origin

import attrs
import pydantic
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from typing_extensions import TypeAliasType, TypedDict

import asteady
import asteady.blocking
from asteady import (
    GenerateRequest,
    IncompleteAnswerError,
    InvalidRequestError,
    Session,
    TypedCompletion,
)
from asteady._base.forms import form_of
from asteady.cli import main
from asteady.operate import warm_cache_parallel
from asteady.testing import FakeEngine

pytestmark = pytest.mark.anyio

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 10},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}


class Line(pydantic.BaseModel):
    text: str = pydantic.Field(max_length=8)
    amount: Decimal


class Invoice(pydantic.BaseModel):
    number: int
    paid: bool
    lines: list[Line] = pydantic.Field(max_length=2)


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


@attrs.frozen
class Size:
    width: int
    height: int


@attrs.frozen(kw_only=True)
class Box:
    size: Size
    corners: list[Size] = attrs.field(factory=list)


class Trip(TypedDict):
    city: Literal["Rome", "Paris"]


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Color(enum.StrEnum):
    RED = enum.auto()
    BLUE = enum.auto()


class Level(enum.Enum):
    LOW = 1
    HIGH = 2


# Those of typing, which pydantic takes from Python 3.12 on.
class Leg(typing.TypedDict):
    city: typing.Annotated[str, pydantic.Field(max_length=4)]
    by: typing.NotRequired[Literal["train"]]


class Tour(Leg, total=False):
    legs: typing.Required[typing.Annotated[list[Leg], pydantic.Field(max_length=1)]]
    size: typing.Required[int]
    note: Literal["none"]


@attrs.frozen
class Label:
    text: typing.Annotated[str, pydantic.Field(max_length=3)]


class Ring(typing.TypedDict):
    next: list[Ring]


Days = typing.NewType("Days", int)
SizeOf = typing.NewType("SizeOf", Size)
Maybe = TypeAliasType("Maybe", bool | None)


@pytest.fixture
async def session() -> AsyncIterator[Session]:
    async with Session() as session:
        yield session


async def test_a_json_schema_gives_what_json_has(session: Session) -> None:
    value = await session.generate("Describe a trip", schema=SCHEMA)
    assert set(value) == {"city", "days"}
    assert 1 <= value["days"] <= 9


@pytest.mark.parametrize(
    "kind",
    [int, bool, float, list[int], Point, Size, Box, Trip, set[int], Literal["a", 3]],
    ids=str,
)
async def test_a_type_gives_a_value_of_it(session: Session, kind: Any) -> None:
    value = await session.generate("Say it", schema=kind, max_new_tokens=200, seed=3)
    if kind is Trip:
        assert value["city"] in ("Rome", "Paris")
    elif isinstance(kind, type):
        assert type(value) is (get_origin(kind) or kind)


def money(**rules: Any) -> Any:
    return typing.Annotated[Decimal, pydantic.Field(**rules)]


@pytest.mark.parametrize(
    "kind",
    [
        money(gt=0, lt=10),
        money(ge=Decimal("0.01"), max_digits=5, decimal_places=2),
        money(decimal_places=1),
        money(multiple_of=Decimal("0.05"), ge=0, le=1),
        dict[int, bool],
        dict[Color, bool],
        dict[Literal["a", "b"], Days],
        dict[typing.Annotated[str, pydantic.Field(pattern="^[ab]$")], bool],
        Leg,
        Tour,
        list[Leg],
        Label,
        Days,
        SizeOf,
        Maybe,
    ],
    ids=str,
)
async def test_an_answer_follows_all_that_a_type_says(session: Session, kind: Any) -> None:
    for seed in range(5):
        with contextlib.suppress(IncompleteAnswerError):
            await session.generate(
                "Say it", schema=kind, temperature=2.0, seed=seed, max_new_tokens=120
            )


async def test_typed_dicts_of_typing() -> None:
    async with Session(engine=FakeEngine()) as session:
        tour = await session.generate("A tour", schema=Tour)
        assert {"city", "legs", "size"} <= set(tour) <= {"city", "by", "legs", "size", "note"}
        assert isinstance(tour["size"], int)
        schema = json.loads(str(form_of(Tour, None).options["schema"]))
        assert schema["required"] == ["city", "legs", "size"]
        assert schema["properties"]["city"]["maxLength"] == 4
        if sys.version_info < (3, 12):
            with pytest.raises(InvalidRequestError, match="the class Ring contains itself"):
                await session.generate("x", schema=Ring)


def test_names_that_have_a_pattern_and_a_length_are_held_to_the_pattern() -> None:
    name = typing.Annotated[str, pydantic.Field(pattern="^[ab]*$", max_length=9)]
    assert json.loads(str(form_of(dict[name, bool], None).options["schema"])) == {
        "type": "object",
        "patternProperties": {"^[ab]*$": {"type": "boolean"}},
        "additionalProperties": False,
    }


def test_a_class_of_attrs_keeps_what_annotations_say() -> None:
    schema = json.loads(str(form_of(Label, None).options["schema"]))
    assert schema["properties"]["text"]["maxLength"] == 3


async def test_members_of_an_enum_as_choices() -> None:
    async with Session(engine=FakeEngine()) as session:
        assert await session.generate("Which?", choices=[Color.BLUE]) is Color.BLUE
        assert await session.generate("Which?", choices=(Level.HIGH, Level.LOW)) in Level
        assert await session.generate("Which?", choices=Literal[Mood.BAD]) is Mood.BAD
        assert await session.generate("Which?", choices=Level) in Level
        with pytest.raises(InvalidRequestError, match=r"choices\[1\]=<Level.LOW: 1> is not"):
            await session.generate("Which?", choices=["a", Level.LOW])


async def test_a_model_of_pydantic(session: Session) -> None:
    invoice = await session.generate("Extract the invoice: ...", schema=Invoice, max_new_tokens=300)
    assert isinstance(invoice, Invoice)
    assert all(isinstance(line.amount, Decimal) for line in invoice.lines)
    answer = await session.complete("Extract the invoice: ...", schema=Invoice, max_new_tokens=300)
    assert isinstance(answer, TypedCompletion)
    assert answer.value == invoice
    assert answer.cached
    assert Invoice.model_validate_json(answer.text) == invoice


@attrs.frozen
class Node:
    children: list[Node]


@attrs.frozen
class Square:
    width: int = attrs.field(default=1)
    height: int = attrs.field(default=attrs.Factory(lambda self: self.width, takes_self=True))


async def test_attrs_classes_that_contain_themselves_or_have_derived_defaults() -> None:
    async with Session(engine=FakeEngine()) as session:
        with pytest.raises(InvalidRequestError, match="the class Node contains itself"):
            await session.generate("A tree", schema=list[Node])
        square = await session.generate("A square", schema=Square)
        assert isinstance(square, Square)


async def test_attrs_classes_in_each_other(session: Session) -> None:
    box = await session.generate("A box", schema=Box, max_new_tokens=300)
    assert isinstance(box.size, Size)
    assert all(isinstance(corner, Size) for corner in box.corners)


async def test_a_schema_as_json_gives_a_value_also_when_it_is_warm(session: Session) -> None:
    schema = '{"type": "integer", "maximum": 9, "minimum": 0}'
    values = [await session.generate("A number", schema=schema) for _ in range(3)]
    assert values == [int(values[0])] * 3
    assert (await session.complete("A number", schema=schema)).value == values[0]
    async with session.stream("Another number", schema=schema) as stream:
        streamed = (await stream.read()).value
    assert await session.generate("Another number", schema=schema) == streamed
    assert isinstance(streamed, int)


async def test_choices(session: Session) -> None:
    assert await session.generate("Sentiment?", choices=["good", "bad"]) in ("good", "bad")
    assert await session.generate("Sentiment?", choices=Mood) in Mood
    assert await session.generate("Sentiment?", choices=Literal["good", "bad"]) in ("good", "bad")
    answer = await session.complete("Sentiment?", choices=Mood)
    assert answer.value is Mood(answer.text)


async def test_a_regex_and_a_grammar(session: Session) -> None:
    assert re.fullmatch(r"[A-Z]{3}-\d", await session.generate("Code?", regex="[A-Z]{3}-[0-9]"))
    assert await session.generate("?", grammar='start: "yes" | "no"') in ("yes", "no")


async def test_each_caller_gets_a_value_of_its_own(session: Session) -> None:
    first = await session.generate("A trip", schema=SCHEMA)
    first["city"] = "changed"
    second = await session.generate("A trip", schema=SCHEMA)
    assert second["city"] != "changed"
    assert await session.is_cached("A trip", schema=SCHEMA)
    assert not await session.is_cached("A trip")
    assert not await session.is_cached("A trip", schema={**SCHEMA, "required": []})


async def test_a_type_is_found_warm_and_is_the_same_request_as_its_schema(
    session: Session,
) -> None:
    await session.generate("A point", schema=Point)
    seen: list[asteady.Observed] = []
    with session.observe(seen.append):
        await session.generate("A point", schema=Point)
    assert [each.outcome for each in seen] == ["memory"]
    assert await session.is_cached("A point", schema=Point)


async def test_streams(session: Session) -> None:
    async with session.stream("A trip", schema=SCHEMA) as stream:
        text = "".join([chunk async for chunk in stream])
    assert stream.answer.value == json.loads(text)
    async with session.stream("A trip", schema=Point) as typed:
        assert isinstance((await typed.read()).value, Point)
    assert typed.answer.value is typed.answer.value


async def test_under_a_prefix_in_a_namespace_and_warmed(session: Session, tmp_path: Path) -> None:
    chat = session.prefix("You plan trips.")
    assert set(await chat.generate("Where to?", schema=SCHEMA)) == {"city", "days"}
    namespace = session.namespace("trips")
    await namespace.generate("Where to?", schema=SCHEMA)
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps({"prompt": "Warmed", "schema": SCHEMA}) + "\n")
    report = await session.warm(file)
    assert report.warmed == 1
    assert await session.is_cached("Warmed", schema=SCHEMA)
    # A type, and what a file has to say of it.
    request = GenerateRequest.of("Another", schema=Point)
    assert request.constraint is not None
    schema = json.loads(request.constraint.source)
    file.write_text(json.dumps({"prompt": "Another", "schema": schema}) + "\n")
    assert (await session.warm(file)).warmed == 1
    assert await session.is_cached("Another", schema=Point)


async def test_a_form_for_all_prompts_that_are_warmed() -> None:
    prompts: list[str | dict[str, Any]] = ["a", {"prompt": "b", "regex": "[0-9]"}, "c"]
    async with Session(engine=FakeEngine()) as session:
        assert (await session.warm(prompts, schema=Point)).warmed == 3
        assert await session.is_cached("a", schema=Point)
        assert await session.is_cached("b", regex="[0-9]")
        assert (await warm_cache_parallel(["a"], session=session, choices=Mood)).failed == ()
        assert await session.is_cached("a", choices=Mood, max_new_tokens=100)
        with pytest.raises(InvalidRequestError, match="give one of schema, choices"):
            await session.warm(prompts, schema=Point, choices=["a"])


async def test_identical_calls_are_computed_once() -> None:
    engine = FakeEngine()
    async with Session(engine=engine) as session:
        values = await asyncio.gather(
            *(session.generate("A trip", schema=SCHEMA) for _ in range(20))
        )
    assert len(engine.computed) == 1
    assert all(value == values[0] for value in values)
    assert len({id(value) for value in values}) == 20


async def test_a_fake_engine_answers_in_the_form() -> None:
    async with Session(engine=FakeEngine()) as session:
        assert isinstance(await session.generate("?", schema=Invoice), Invoice)
        assert await session.generate("?", choices=["good", "bad"]) in ("good", "bad")
        assert re.fullmatch(r"[A-Z]{3}-\d{4}", await session.generate("?", regex=r"[A-Z]{3}-\d{4}"))
    async with Session(engine=FakeEngine(lambda request: '{"x": 1, "y": 2}')) as session:
        assert await session.generate("?", schema=Point) == Point(1, 2)


async def test_what_is_cut_is_not_stored(session: Session) -> None:
    with pytest.raises(IncompleteAnswerError, match="85 are always enough") as caught:
        await session.generate("A trip", schema=SCHEMA, max_new_tokens=4)
    assert caught.value.text.startswith("{")
    assert (await session.cache.get_cache_stats())["generation"]["size"] == 0
    async with session.stream("A trip", schema=SCHEMA, max_new_tokens=4) as stream:
        assert await anext(stream)
        with pytest.raises(IncompleteAnswerError):
            await stream.read()


@pytest.mark.parametrize(
    ("form", "named"),
    [
        ({"schema": 5}, "schema=5 is not allowed: a type, or a JSON schema"),
        ({"schema": {"properties": {"a": {"not": {}}}}}, 'at #/properties/a: .* follow "not"'),
        ({"schema": asyncio.Task}, "JSON schema of it: .* schema for <class '_asyncio.Task'>$"),
        ({"schema": int, "choices": ["a"]}, "give one of schema, choices"),
        ({"schema": int, "regex": "a"}, "give one of schema, regex"),
        ({"choices": 5}, "a list of texts"),
        ({"choices": []}, "at least one choice"),
        ({"schema": {"type": "thing"}}, "schema is not allowed"),
        ({"schema": {"a": object()}}, "cannot be JSON"),
    ],
)
async def test_a_form_that_cannot_be_is_named(
    session: Session, form: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidRequestError, match=named):
        await session.generate("hi", **form)


async def test_forms_are_limited_by_settings(tmp_path: Path) -> None:
    async with Session(engine=FakeEngine(), form_max_characters=60) as session:
        await session.generate("hi", choices=["yes", "no"])
        with pytest.raises(InvalidRequestError, match=r"schema has .* at most 60 here"):
            await session.generate("hi", schema=SCHEMA)
        with pytest.raises(InvalidRequestError, match=r"regex has 61 .* at most 60 here"):
            await session.generate("hi", regex="a" * 61)
    async with Session(cache_dir=tmp_path, form_max_states=20) as session:
        with pytest.raises(InvalidRequestError, match="raise form_max_states"):
            await session.generate("hi", regex="[a-z ]{1,200}x")
    async with Session(cache_dir=tmp_path, form_max_states=200) as session:
        with pytest.raises(asteady.EngineError, match="raise form_max_states"):
            await session.generate("hi", regex="[a-z ]{1,200}x")


async def test_the_stored_request_has_the_form(session: Session) -> None:
    await session.generate("A trip", schema=SCHEMA)
    await session.generate("A mood", choices=["b", "a"])
    await session.generate("A code", regex="[a-z]{2}")
    report = await asteady.operate.verify_cache(session)
    assert (report.same, report.differences, report.skipped) == (3, (), {})


def test_a_schema_as_json_without_await() -> None:
    with asteady.blocking.Session() as session:
        schema = '{"type": "integer", "maximum": 9, "minimum": 0}'
        first = session.generate("A number", schema=schema)
        assert isinstance(first, int)
        assert session.generate("A number", schema=schema) == first


def test_without_await() -> None:
    with asteady.blocking.Session() as session:
        assert isinstance(session.generate("A point", schema=Point), Point)
        assert session.complete("A mood", choices=Mood).value in Mood
        assert session.generate("A mood", choices=["x"]) == "x"
        with session.stream("A point", schema=Point) as stream:
            assert "".join(stream) == stream.answer.text
            assert isinstance(stream, asteady.blocking.TypedStream)
            assert isinstance(stream.answer.value, Point)
            assert stream.read().value == stream.answer.value
        assert "".join(session.generate_iter("A mood", choices=["x"])) == "x"
        with session.stream("A point", choices=None, max_new_tokens=1) as untyped:
            assert not isinstance(untyped, asteady.blocking.TypedStream)
    assert asteady.blocking.generate("A mood", choices=["x"]) == "x"


async def test_the_module_level_functions() -> None:
    assert isinstance(await asteady.generate("A point", schema=Point), Point)
    async with asteady.stream("A point", schema=Point) as stream:
        assert isinstance((await stream.read()).value, Point)
    await asteady.aclose()


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA))
    assert main(["generate", "A trip", "--schema", str(file), "-q"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"city", "days"}
    assert main(["generate", "-q", "--regex", "[0-9]{3}", "A number"]) == 0
    assert re.fullmatch(r"\d{3}\n", capsys.readouterr().out)
    assert main(["generate", "A mood", "--json", "-q", "--choices", "good", "bad"]) == 0
    assert json.loads(capsys.readouterr().out)["value"] in ("good", "bad")
    file.write_text("{")
    assert main(["generate", "A trip", "--schema", str(file), "-q"]) == 1
    assert "it is not JSON" in capsys.readouterr().err


def test_in_a_web_app() -> None:
    app = FastAPI()

    @app.get("/point")
    async def point() -> Point:
        return await asteady.generate("A point", schema=Point)

    with TestClient(app) as client:
        assert set(client.get("/point").json()) == {"x", "y"}
