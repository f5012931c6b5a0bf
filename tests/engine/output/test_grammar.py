"""Answers that have a form: only allowed tokens, the same bits, and errors before the queue."""

from __future__ import annotations

import gc
import json
import re
import threading
from collections.abc import Callable, Iterator
from datetime import date
from typing import Any

import numpy as np
import pytest

from asteady._base.constraints import Constraint, constraint_of
from asteady._base.errors import EngineError, IncompleteAnswerError, InvalidRequestError
from asteady._base.requests import Completion, GenerateRequest
from asteady._engine.api import AnswerEvent, ErrorEvent
from asteady._engine.llama.engine import LlamaEngine
from asteady._engine.loader import load_engine
from asteady._engine.models.resolve import resolve_model
from asteady._engine.output.cut import most_tokens
from asteady._engine.output.grammar import Form, MaskThread
from asteady._engine.output.schemas import most_bytes
from asteady._engine.plan import EngineOptions, Setup
from tests.engine.driving import digest, drain, together

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}

# A text of 2**25 characters in one terminal.
DOUBLED = "\n".join(
    ["start: X0", *(f"X{n}: X{n + 1} X{n + 1}" for n in range(25)), 'X25: "a"'],
)
HALF: dict[str, Any] = {str(n): {} for n in range(2_048)}
MANY: dict[str, Any] = {"properties": {"a": {"properties": {str(n): {} for n in range(4_097)}}}}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaEngine]:
    folder = tmp_path_factory.mktemp("grammar")
    file = resolve_model("builtin", kind="generation", cache_dir=folder)
    engine = load_engine(file, EngineOptions(), folder, Setup(width=8))
    yield engine
    engine.close()


def ask(prompt: str = "Describe a person", **options: Any) -> GenerateRequest:
    return GenerateRequest.of(prompt, **{"max_new_tokens": 60, "logprobs": 2, **options})


def answer(engine: LlamaEngine, request: GenerateRequest) -> Completion:
    (completion,) = together(engine, [request])
    assert isinstance(completion, Completion)
    return completion


def error(engine: LlamaEngine, request: GenerateRequest) -> Exception:
    worker = engine.open_worker()
    slot = worker.admit(engine.prepare(request))
    while True:
        for event in worker.step():
            assert not isinstance(event, AnswerEvent), event
            if isinstance(event, ErrorEvent):
                assert event.slot == slot
                worker.close()
                return event.error


@pytest.mark.parametrize("temperature", [0.0, 1.0, 5.0])
def test_a_schema(engine: LlamaEngine, temperature: float) -> None:
    for seed in range(5):
        completion = answer(engine, ask(schema=SCHEMA, temperature=temperature, seed=seed))
        value = json.loads(completion.text)
        assert list(value) == ["name", "age"]
        assert len(value["name"]) <= 12
        assert 0 <= value["age"] <= 150
        assert completion.finish_reason == "stop"
        assert completion.text == json.dumps(value, ensure_ascii=False)


def test_choices_a_regex_and_a_grammar(engine: LlamaEngine) -> None:
    for seed in range(5):
        options: Any = {"temperature": 2.0, "seed": seed}
        assert answer(engine, ask(choices=["yes", "no", "日本"], **options)).text in {
            "yes",
            "no",
            "日本",
        }
        assert re.fullmatch(r"[A-Z]{3}-\d{4}", answer(engine, ask(regex=r"[A-Z]{3}-[0-9]{4}")).text)
        found = answer(
            engine, ask(grammar='start: "<" /[a-z]{1,8}/ ("," /[a-z]{1,8}/)~2 ">"', **options)
        )
        assert re.fullmatch(r"<[a-z]{1,8}(,[a-z]{1,8}){2}>", found.text)


def test_a_schema_that_allows_all_and_one_that_allows_nothing(engine: LlamaEngine) -> None:
    assert ask(schema=True) == ask(schema={})
    engine.prepare(ask(schema=True))
    with pytest.raises(InvalidRequestError, match=r"schema='false' is not allowed: a JSON schema"):
        ask(schema=False)


def test_an_object_with_many_optional_properties(engine: LlamaEngine) -> None:
    properties = {f"p{index}": {"type": "boolean"} for index in range(1000)}
    schema = {"type": "object", "properties": properties, "required": ["p999"]}
    with pytest.raises(IncompleteAnswerError):
        answer(engine, ask(schema=schema, max_new_tokens=4))


def test_a_choice_that_begins_another_may_end_or_go_on(engine: LlamaEngine) -> None:
    found = {
        answer(engine, ask(choices=["a", "ab", "abc"], temperature=10.0, seed=seed)).text
        for seed in range(30)
    }
    assert found == {"a", "ab", "abc"}


def test_forms_and_free_answers_in_one_batch_have_the_bits_of_each_alone(
    engine: LlamaEngine,
) -> None:
    requests = [
        ask("Describe a person", schema=SCHEMA),
        ask("Write a haiku about caching", max_new_tokens=30),
        ask("Is it good?", choices=["good", "bad"], temperature=1.0),
        ask("Describe a dog", schema=SCHEMA, temperature=1.0, seed=3),
        ask("Write a haiku about rain", temperature=0.7, max_new_tokens=30),
        ask("A number", regex="[0-9]{3,9}", repeat_penalty=1.3),
        ask("Explain recursion", max_new_tokens=30),
    ]
    alone = [digest(answer(engine, request)) for request in requests]
    worker = engine.open_worker()
    slots = [worker.admit(engine.prepare(request)) for request in requests]
    found, _ = drain(worker, *slots)
    assert [digest(found[slot]) for slot in slots] == alone
    worker.close()


def test_log_probabilities_are_the_models_own(engine: LlamaEngine) -> None:
    free = answer(engine, ask("Is it good?", max_new_tokens=1, logprobs=5))
    bound = answer(engine, ask("Is it good?", choices=["zebra"], logprobs=5))
    assert free.logprobs is not None
    assert bound.logprobs is not None
    assert bound.logprobs[0].top == free.logprobs[0].top
    assert bound.logprobs[0].logprob < free.logprobs[0].logprob


def test_an_answer_that_is_cut_is_an_error_with_what_there_was(engine: LlamaEngine) -> None:
    cut = error(engine, ask(schema=SCHEMA, max_new_tokens=5))
    assert isinstance(cut, IncompleteAnswerError)
    assert str(cut) == (
        "the answer was cut after 5 tokens, before its form was complete: 98 are always enough"
    )
    assert cut.text.startswith('{"name')
    cut = error(engine, ask(schema={**SCHEMA, "additionalProperties": True}, max_new_tokens=5))
    assert "raise max_new_tokens, or have the form bound what repeats in it" in str(cut)
    cut = error(engine, ask(choices=["a rather long choice"], max_new_tokens=1))
    assert "20 are always enough" in str(cut)
    # A text may be cut where its form is complete; no number, nor a choice that begins another.
    completion = answer(engine, ask(regex="[0-9]+", max_new_tokens=3))
    assert (completion.finish_reason, completion.completion_tokens) == ("length", 3)
    cut = error(engine, ask(schema={"type": "integer", "minimum": 10**9}, max_new_tokens=10))
    assert isinstance(cut, IncompleteAnswerError)
    assert cut.text.isdecimal()
    cut = error(engine, ask(choices=["a", "a rather long choice"], max_new_tokens=1))
    assert isinstance(cut, IncompleteAnswerError)


@pytest.mark.parametrize(
    ("form", "named"),
    [
        ({"schema": {"type": "objekt"}}, "schema is not allowed: .*objekt"),
        ({"schema": {"type": "string", "pattern": "a["}}, "unclosed character class, in '\\['"),
        ({"schema": {"$ref": "#/nowhere"}}, "schema is not allowed: .*'/nowhere' does not exist"),
        ({"schema": {"properties": {"a/b": {"type": "objekt"}}}}, "at #/properties/a~1b: .*objekt"),
        (
            {"schema": {"items": {"anyOf": [{"type": "null"}, {"not": {}}]}}},
            'at #/items/anyOf/1: llguidance cannot follow "not"',
        ),
        (
            {"schema": {"oneOf": [{"type": "integer"}, {"type": "number"}]}},
            "may overlap: use anyOf",
        ),
        (
            # A list that has itself in it.
            {
                "schema": {
                    "$ref": "#/$defs/list",
                    "$defs": {
                        "list": {
                            "properties": {
                                "next": {"$ref": "#/$defs/list"},
                                "items": {"type": "array", "uniqueItems": True},
                            }
                        }
                    },
                }
            },
            'at #/\\$defs/list/properties/items: llguidance cannot follow "uniqueItems"',
        ),
        (
            {"schema": {"items": {"type": "object", "minProperties": 2}}},
            "at #/items: minProperties asks for 2 properties that properties does not name",
        ),
        ({"schema": {"properties": {"a": {"pattern": "a" * 17_000}}}}, "at #/properties/a: with"),
        ({"schema": MANY}, "at #/properties/a: with the 4,097 properties .* one may have 4,096"),
        ({"schema": {"propertyNames": {"enum": [str(n) for n in range(4_097)]}}}, "at #: with the"),
        ({"schema": {"prefixItems": [{"properties": HALF} for _ in range(5)]}}, "#/prefixItems/"),
        ({"schema": '{"items":' * 300 + "{}" + "}" * 300}, "allowed: it is nested too deep"),
        ({"schema": {"type": "integer", "minimum": 2, "maximum": 1}}, "minimum \\(2\\) is greater"),
        ({"schema": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}}, "no text has"),
        ({"regex": "a(?=b)"}, "regex is not allowed: look-around, .* not supported, in '\\(\\?='"),
        ({"regex": "\\bfoo"}, r"regex is not allowed: word boundaries are not .*, in /\\bfoo/"),
        ({"regex": "a$b"}, r"\^ and \$ inside of it are not supported, in /a\$b/"),
        ({"schema": {"items": {"pattern": "\\bx"}}}, "at #/items: word boundaries"),
        ({"grammar": 'root ::= "a"'}, r"it is GBNF: llguidance\.gbnf_to_lark"),
        ({"grammar": 'start: "::=" a'}, "unknown name"),
        ({"schema": {"name": "Trip", "schema": {}}}, "not allowed: a JSON schema, such as"),
        ({"regex": "a\0"}, "it has the character U\\+0000"),
        ({"grammar": "start: a\na: a"}, "grammar is not allowed: no text has this form"),
        (
            {"grammar": "start: b\nb: c"},
            "grammar is not allowed: line 2, column 4: unknown name",
        ),
        ({"grammar": DOUBLED}, "grammar is not allowed: .* too big"),
        ({"schema": "[1"}, "schema='\\[1' is not allowed: it is not JSON"),
        ({"schema": 5}, "schema=5 is not allowed"),
        ({"schema": {"a": {1, 2}}}, "cannot be JSON"),
        ({"regex": "(["}, "regex is not allowed: "),
        ({"regex": ""}, "regex='' is not allowed"),
        ({"grammar": "start: nowhere"}, "grammar is not allowed: "),
        ({"choices": []}, "at least one choice"),
        ({"choices": ["a", ""]}, "at least one choice"),
        ({"choices": "yes"}, "a list of texts"),
        ({"choices": ["a", 1]}, r"choices\[1\]=1 is not allowed: .* schema=Literal"),
        ({"choices": ["a"], "regex": "a"}, "give one of choices, regex"),
        ({"choices": ["a"], "stop": "a"}, "ends where its form ends"),
        ({"regex": "a" * 9_000}, "at most 8,192"),
        ({"choices": [str(n) for n in range(10_001)]}, "10,001 choices are too many"),
    ],
)
def test_a_form_that_cannot_be_is_refused_before_the_queue(
    engine: LlamaEngine, form: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidRequestError, match=named):
        engine.prepare(ask(**form))


def test_equal_forms_are_equal_and_in_the_key() -> None:
    assert constraint_of(choices=["b", "a", "b"]) == constraint_of(choices=("a", "b"))
    text = json.dumps(SCHEMA, indent=4)
    assert constraint_of(schema=text) == constraint_of(schema=SCHEMA)
    keys = {
        GenerateRequest.of("x", **form).key("f")
        for form in (
            {},
            {"schema": SCHEMA},
            {"schema": {**SCHEMA, "required": ["age"]}},
            {"choices": ["a"]},
            {"regex": "a"},
            {"grammar": "a"},
        )
    }
    assert len(keys) == 6
    # The order of properties is that of the answer.
    turned = {**SCHEMA, "properties": dict(reversed(SCHEMA["properties"].items()))}  # type: ignore[attr-defined]
    assert constraint_of(schema=turned) != constraint_of(schema=SCHEMA)


def test_ten_thousand_choices_of_any_characters(engine: LlamaEngine) -> None:
    numbers = [f"choice number {number}" for number in range(10_000)]
    assert answer(engine, ask(choices=numbers)).text in numbers
    # What means something in a regular expression, in JSON or in Lark's syntax, and to no terminal.
    odd = [chr(code) + "|\\Q/\"'$^.*+?()[]{}#&-~%" for code in (*range(1, 256), 0x2028, 0x1F600)]
    for seed in range(5):
        assert answer(engine, ask(choices=odd, temperature=5.0, seed=seed)).text in odd
    alone = ["a\0b"]
    assert answer(engine, ask(choices=alone)).text == "a\0b"


def test_a_format_that_is_not_known_is_an_annotation(engine: LlamaEngine) -> None:
    schema = {
        "type": "object",
        # A property of this name is not the keyword.
        "properties": {
            "format": {"format": "password", "enum": ["a"]},
            "ids": {"type": "array", "uniqueItems": False, "items": {"const": 1}, "minItems": 2},
        },
        "required": ["format", "ids"],
    }
    text = answer(engine, ask(schema=schema, max_new_tokens=400)).text
    assert text.startswith('{"format": "a", "ids": [1, 1')


def follows(engine: LlamaEngine, schema: dict[str, Any], value: Any) -> bool:
    constraint = constraint_of(schema=schema)
    assert constraint is not None
    matcher = engine._grammars.compile(constraint).copy()
    tokens = engine.vocab.tokenize(json.dumps(value, ensure_ascii=False), special=False)
    return all(matcher.accept(token) for token in tokens) and matcher.accepting


@pytest.mark.parametrize("reference", ["#/parts/a%20b~1c", "#/list/1"])
def test_what_a_reference_leads_to_is_read_wherever_it_lies(
    engine: LlamaEngine, reference: str
) -> None:
    day = {"type": "string", "format": "date"}
    schema = {"$ref": reference, "parts": {"a b/c": day}, "list": [0, day]}
    assert follows(engine, schema, "2023-02-28")
    assert not follows(engine, schema, "2023-02-29")


@pytest.mark.parametrize("more", [{}, {"pattern": "^[0-9T:.Z+-]*$"}])
def test_days_and_times_are_those_that_python_has(
    engine: LlamaEngine, more: dict[str, str]
) -> None:
    def holds(kind: str, text: str) -> bool:
        return follows(engine, {"type": "string", "format": kind, **more}, text)

    for year in (0, 1, 4, 1900, 2000, 2023, 2024, 9999):
        for day in ("01-01", "02-28", "02-29", "02-30", "04-31", "06-30", "12-31", "13-01"):
            text = f"{year:04}-{day}"
            try:
                date.fromisoformat(text)
                exists = True
            except ValueError:
                exists = False
            assert holds("date", text) == exists, text
            assert holds("date-time", f"{text}T23:59:59.25+01:30") == exists
    assert holds("time", "00:00:00Z")
    assert not holds("time", "23:59:60Z")
    assert not holds("time", "24:00:00Z")


@pytest.mark.parametrize(
    "bounds",
    [
        {"exclusiveMinimum": 0, "maximum": 0.5},
        {"exclusiveMinimum": 0, "exclusiveMaximum": 0.01},
        {"minimum": -1.5, "exclusiveMaximum": -1},
        {"minimum": -0.01, "exclusiveMaximum": 0},
        {"exclusiveMinimum": 1, "maximum": 1.5, "minimum": 1.25},
        {"exclusiveMinimum": 0, "maximum": 1},
        {"exclusiveMinimum": 0.01, "exclusiveMaximum": 0.5},
    ],
)
def test_numbers_are_within_their_bounds(engine: LlamaEngine, bounds: dict[str, float]) -> None:
    constraint = constraint_of(schema={"type": "number", **bounds})
    assert constraint is not None
    compiled = engine._grammars.compile(constraint)
    allowed = []
    for sign in ("", "-"):
        for text in ("0", "0.0", "0.001", "0.01", "0.010", "0.4", "0.5", "1", "1.0", "1.3", "1.5"):
            matcher = compiled.copy()
            tokens = engine.vocab.tokenize(sign + text, special=False)
            if all(matcher.accept(token) for token in tokens) and matcher.accepting:
                allowed.append(float(sign + text))
    assert allowed
    assert min(allowed) >= bounds.get("minimum", -10)
    assert max(allowed) <= bounds.get("maximum", 10)
    assert min(allowed) > bounds.get("exclusiveMinimum", -10)
    assert max(allowed) < bounds.get("exclusiveMaximum", 10)


def test_no_special_token_is_allowed(engine: LlamaEngine) -> None:
    constraint = constraint_of(regex="(?s:.*)")
    assert constraint is not None
    masks = MaskThread()
    form = Form(engine._grammars.compile(constraint), masks)
    logits = np.zeros(engine.vocab.size, np.float32)
    form.apply(logits)
    allowed = {int(token) for token in np.flatnonzero(np.isfinite(logits))}
    ends = set(engine.vocab.ends())
    assert ends & allowed
    assert {token for token in allowed if not engine.vocab.piece(token)} <= ends
    assert len(allowed) > 256
    with pytest.raises(EngineError, match="cannot be followed"):
        form.accept(next(iter(set(range(engine.vocab.size)) - allowed)))
    masks.close()


@pytest.mark.parametrize(
    ("names", "followed", "refused"),
    [
        ({"enum": ["a", "b"], "title": "Name", "type": "string"}, ["a", "b"], ["c", "ab"]),
        ({"$ref": "#/$defs/name"}, ["a"], ["b"]),
        ({"const": "a"}, ["a"], ["b"]),
        ({"pattern": "^[a-z]{2}$"}, ["ab"], ["a", "AB"]),
        ({"minLength": 1, "maxLength": 2}, ["a", "\n😀"], ["", "abc"]),
        ({"maxLength": 2}, ["", "ab"], ["abc"]),
        ({"format": "date"}, ["2024-02-29"], ["2023-02-29"]),
        ({"format": "uuid"}, ["12345678-1234-5678-1234-56781234567f"], ["1234"]),
    ],
)
def test_names_of_properties_follow_their_schema(
    engine: LlamaEngine, names: dict[str, Any], followed: list[str], refused: list[str]
) -> None:
    schema = {
        "type": "object",
        "propertyNames": names,
        "additionalProperties": {"type": "boolean"},
        "$defs": {"name": {"enum": ["a"]}},
    }
    assert follows(engine, schema, {})
    assert all(follows(engine, schema, {name: True}) for name in followed)
    assert not follows(engine, schema, {followed[0]: 1})
    assert not any(follows(engine, schema, {name: True}) for name in refused)


@pytest.mark.parametrize(
    "names",
    [
        {"enum": ["a", 1]},
        {"pattern": "a", "maxLength": 2},
        {"maxLength": 2, "minLength": "0}|a{0"},
        {"$ref": "#"},
        False,
    ],
)
def test_names_of_properties_that_cannot_be_followed_are_refused(
    engine: LlamaEngine, names: Any
) -> None:
    with pytest.raises(InvalidRequestError, match='llguidance cannot follow "propertyNames"'):
        engine.prepare(ask(schema={"type": "object", "propertyNames": names}))
    for more in ("properties", "patternProperties"):
        with pytest.raises(InvalidRequestError, match="propertyNames"):
            engine.prepare(ask(schema={"propertyNames": {"maxLength": 2}, more: {"a": {}}}))


LINE = {
    "type": "object",
    "properties": {"é": {"type": "string", "maxLength": 2}, "n": {"type": ["null", "boolean"]}},
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("schema", "most"),
    [
        ({"type": "boolean"}, 5),
        ({"enum": ["a", "é"]}, 8),
        ({"const": {"a": 1}}, 8),
        ({"type": "integer", "minimum": -100, "maximum": 99}, 4),
        ({"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 10}]}, 62),
        ({"type": "array", "items": {"type": "null"}, "maxItems": 3}, 23),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"const": 1}}}, 1),
        ({"type": "integer"}, None),
        ({"type": "string"}, None),
        ({"type": "array", "items": {"type": "null"}}, None),
        ({"type": "object", "properties": {"a": {"type": "null"}}}, None),
        (LINE, None),
        ({}, None),
    ],
)
def test_the_most_tokens_of_a_schema(
    engine: LlamaEngine, schema: dict[str, Any], most: int | None
) -> None:
    constraint = constraint_of(schema=schema)
    assert constraint is not None
    assert most_tokens(constraint) == most
    if most is None:
        return
    for seed in range(4):
        request = ask(schema=schema, temperature=5.0, seed=seed, max_new_tokens=most)
        assert len(answer(engine, request).text.encode()) <= most


def test_the_most_tokens_of_schemas_that_refer_to_themselves_or_to_much() -> None:
    tree: dict[str, Any] = {
        "type": "object",
        "properties": {name: {"$ref": "#"} for name in "abcdefgh"},
        "additionalProperties": False,
    }
    assert most_bytes(tree) is None
    # Each definition has the next one twice.
    definitions: dict[str, Any] = {
        str(n): {
            "type": "object",
            "properties": {key: {"$ref": f"#/$defs/{n + 1}"} for key in "ab"},
            "additionalProperties": False,
        }
        for n in range(1_000)
    }
    definitions["1000"] = {"type": "null"}
    found = most_bytes({"$ref": "#/$defs/980", "$defs": definitions})
    assert found is not None
    assert found > 2**20
    assert most_bytes({"$ref": "#/$defs/940", "$defs": definitions}) is None  # 2**60
    assert most_bytes({"$ref": "#/$defs/0", "$defs": definitions}) is None
    for items in ({"type": "string"}, {"type": "null"}):
        assert most_bytes({"type": "array", "items": items, "maxItems": 10**400}) is None


def test_a_form_that_fails_in_the_middle_is_an_error_and_no_answer(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted = Form.accept

    def accept(self: Form, token: int) -> bool:
        return accepted(self, 0)

    monkeypatch.setattr(Form, "accept", accept)
    assert isinstance(error(engine, ask(schema=SCHEMA)), EngineError)


def test_many_forms_are_forgotten(engine: LlamaEngine) -> None:
    for number in range(200):
        engine.prepare(ask(choices=[f"choice {number}"]))
    gc.collect()
    assert len(engine._grammars._compiled) == 64
    for number in range(4):
        engine.prepare(ask(choices=[f"{number}" * 400_000]))
    assert len(engine._grammars._compiled) == 2


def test_a_mask_that_cannot_be_computed_ends_that_answer_only(engine: LlamaEngine) -> None:
    def fail() -> None:
        raise RuntimeError

    masks = MaskThread()
    assert masks.submit(fail).wait(60)
    constraint = constraint_of(choices=["a"])
    assert constraint is not None
    form = Form(engine._grammars.compile(constraint), masks)
    with pytest.raises(EngineError, match="cannot be followed"):
        form.accept(engine.vocab.ends()[0])
    form.begin_mask()
    with pytest.raises(EngineError, match="cannot be followed"):
        form.apply(np.zeros(engine.vocab.size, np.float32))
    masks.close()


def test_masks_that_take_long_are_computed_by_a_thread(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = digest(answer(engine, ask(schema=SCHEMA)))
    computed = []
    submit = MaskThread.submit

    def submitted(self: MaskThread, compute: Callable[[], None]) -> threading.Event:
        computed.append(compute)
        return submit(self, compute)

    monkeypatch.setattr(MaskThread, "submit", submitted)
    monkeypatch.setattr("asteady._engine.output.grammar._WAKING_S", 0.0)
    completion = answer(engine, ask(schema=SCHEMA))
    assert digest(completion) == expected
    # One for each token.
    assert len(computed) == completion.completion_tokens


def test_without_room_for_a_thread_masks_are_computed_at_once(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(*arguments: object) -> None:
        raise EngineError("no room")

    expected = digest(answer(engine, ask(schema=SCHEMA)))
    monkeypatch.setattr("asteady._engine.output.grammar.start_daemon", no_thread)
    monkeypatch.setattr("asteady._engine.output.grammar._WAKING_S", 0.0)
    assert digest(answer(engine, ask(schema=SCHEMA))) == expected


def test_interrupted_while_a_mask_is_computed(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = digest(answer(engine, ask(schema=SCHEMA)))
    monkeypatch.setattr("asteady._engine.output.grammar._WAKING_S", 0.0)
    compute, computing, interrupted = Form._compute, threading.Event(), threading.Event()

    def held(self: Form) -> None:
        computing.set()
        assert interrupted.wait(60)
        compute(self)

    monkeypatch.setattr(Form, "_compute", held)
    worker = engine.open_worker()
    slot = worker.admit(engine.prepare(ask(schema=SCHEMA)))
    stepping = threading.Thread(target=worker.step)
    stepping.start()
    assert computing.wait(60)
    worker.interrupt(slot)
    interrupted.set()
    stepping.join(60)
    worker.release(slot)
    again = worker.admit(engine.prepare(ask(schema=SCHEMA)))
    found, _ = drain(worker, again)
    assert digest(found[again]) == expected
    worker.close()


def test_the_record_is_public_and_says_what_it_is() -> None:
    assert constraint_of() is None
    constraint = constraint_of(choices=["a"])
    assert isinstance(constraint, Constraint)
    assert (constraint.kind, constraint.choices) == ("choices", ["a"])
