"""Without a model, an answer is a short text of the form that is asked for."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

import asteady
from asteady.testing import FakeEngine

pytestmark = pytest.mark.anyio

SCHEMAS: list[dict[str, Any]] = [
    {
        "type": "object",
        "properties": {
            "number": {"type": "string"},
            "total": {"type": "number"},
            "lines": {"type": "array", "items": {"type": "number"}, "minItems": 30},
        },
        "required": ["number", "total", "lines"],
    },
    {"type": "number", "exclusiveMinimum": 0.5},
    {"type": "string", "pattern": "^[^@]+@[^@]+\\.[a-z]+$"},
    {"type": "array", "items": {"type": "string"}, "minItems": 30},
]


@pytest.mark.parametrize("schema", SCHEMAS)
async def test_an_answer_has_the_schema(schema: dict[str, Any]) -> None:
    async with asteady.Session(engine=FakeEngine()) as session:
        completion = await session.complete("x", schema=schema)
        assert await session.generate("x", schema=schema) == completion.value
    assert completion.value == json.loads(completion.text)
    Draft202012Validator(schema).validate(completion.value)


@pytest.mark.parametrize("regex", ["0*1", "(ab)*c", "[^@]+@[^@]+\\.[a-z]{2,3}", "é+x"])
async def test_an_answer_matches_the_regex(regex: str) -> None:
    async with asteady.Session(engine=FakeEngine()) as session:
        assert re.fullmatch(regex, await session.generate("x", regex=regex))
