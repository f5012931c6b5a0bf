"""Chat templates of published models, rendered as the library `transformers` renders them.

The templates belong to the models' makers and are not in this repository: without them these tests
are skipped. What `transformers` 5.24 made of them is known by digests, which

    python -m tests.engine.llama.test_published_templates

writes where that library is installed. What the templates use is tested without them in
test_template.py.
"""

from __future__ import annotations

import copy
import datetime
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asteady._base.errors import AsteadyError
from asteady._engine.llama.special import SpecialTexts
from asteady._engine.llama.template import ChatTemplate

ROOT = Path(__file__).parents[3]
FOLDER = Path(os.environ.get("ASTEADY_TEST_TEMPLATES", ROOT.parent / "shared" / "templates"))
DIGESTS = ROOT / "tests" / "data" / "published_templates.json"
DATE = datetime.date(2026, 11, 25)
# Everything in a template that may be a special token is one here.
_MARKUP = re.compile(r"<[^<>\s'\"{}]+>|\[[^\[\]\s'\"]+\]")
_ALWAYS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|user|>", "<|assistant|>", "<|system|>"]

_REFUSED = "refused"
# Those that `transformers` refuses, as they take the arguments of calls as JSON.
_MORE = {
    "meetkai-functionary-medium-v3.2.jinja": {
        *("calls", "two calls", "answered calls", "calls with text", "nested arguments"),
    }
}

_SYSTEM = {"role": "system", "content": "You are brief."}
_USER = {"role": "user", "content": "  Hello, who are you? <|im_end|> "}
_ASSISTANT = {"role": "assistant", "content": " I am a model.\n"}
_AGAIN = {"role": "user", "content": 'And 東京 "quoted" & <b>?'}
_THOUGHT = {"role": "assistant", "content": "It is 21.", "reasoning_content": "I looked at it."}
_CALLS: list[dict[str, Any]] = [
    {
        "id": number,
        "type": "function",
        "function": {"name": "get_weather", "arguments": {"city": city, "days": 2}},
    }
    for number, city in (("call12345", "Paris"), ("call67890", "Rome"))
]
_CALLING = {"role": "assistant", "content": "", "tool_calls": _CALLS[:1]}
_NESTED = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "call12345",
            "type": "function",
            "function": {
                "name": "now",
                "arguments": {"a": [1, {"b": None}], "c": True, "d": 1.5, "e": "</tool_call>"},
            },
        }
    ],
}
_RESULT = {
    "role": "tool",
    "name": "get_weather",
    "tool_call_id": "call12345",
    "content": '{"temperature": 21}',
}
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "The city"},
                    "days": {"type": "integer", "default": 1},
                },
                "required": ["city"],
            },
        },
    }
]

CASES: dict[str, dict[str, Any]] = {
    "user": {"messages": [_USER]},
    "system": {"messages": [_SYSTEM, _USER]},
    "turns": {"messages": [_USER, _ASSISTANT, _AGAIN]},
    "system and turns": {"messages": [_SYSTEM, _USER, _ASSISTANT, _AGAIN]},
    "tools": {"messages": [_SYSTEM, _USER], "tools": _TOOLS},
    "calls": {"messages": [_USER, _CALLING, _RESULT], "tools": _TOOLS},
    "answered calls": {
        "messages": [_USER, _CALLING, _RESULT, _THOUGHT, _AGAIN],
        "tools": _TOOLS,
    },
    "two calls": {
        "messages": [
            _USER,
            {**_CALLING, "tool_calls": _CALLS},
            _RESULT,
            {**_RESULT, "tool_call_id": "call67890"},
        ],
        "tools": _TOOLS,
    },
    "reasoning": {"messages": [_USER, _THOUGHT, _AGAIN]},
    "thinking off": {"messages": [_SYSTEM, _USER], "options": {"enable_thinking": False}},
    "thinking on": {"messages": [_SYSTEM, _USER], "options": {"enable_thinking": True}},
    "empty system": {"messages": [{"role": "system", "content": ""}, _USER]},
    "two users": {"messages": [_USER, _AGAIN]},
    "system later": {"messages": [_USER, _ASSISTANT, _SYSTEM, _AGAIN]},
    "names": {"messages": [{**_USER, "name": "Ann"}, {**_ASSISTANT, "name": "Bob"}, _AGAIN]},
    "calls with text": {
        "messages": [_USER, {**_CALLING, "content": "I look.", "reasoning_content": "I"}, _RESULT],
        "tools": _TOOLS,
    },
    "nested arguments": {"messages": [_USER, _NESTED, _RESULT], "tools": _TOOLS},
    "typed tags": {
        "messages": [_USER, {**_ASSISTANT, "content": "<think>\nhm\n</think>\n\nYes."}, _AGAIN]
    },
    "effort": {"messages": [_SYSTEM, _USER], "options": {"reasoning_effort": "high"}},
    "continued": {
        "messages": [_USER, {"role": "assistant", "content": "I am "}],
        "continued": True,
    },
}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _ours(source: str, case: dict[str, Any]) -> str:
    template = ChatTemplate(source, special_of(source), bos="<s>", eos="</s>")
    return template.render(date=DATE, **case).text


def special_of(source: str) -> SpecialTexts:
    texts = [*_MARKUP.findall(source), *_ALWAYS]
    return SpecialTexts(texts, texts)


@pytest.mark.skipif(not FOLDER.is_dir(), reason=f"there are no templates in {FOLDER}")
@pytest.mark.parametrize("name", json.loads(DIGESTS.read_text()))
def test_every_special_token_of_a_published_template_is_its_own(name: str) -> None:
    source = (FOLDER / name).read_text("utf-8")
    special = special_of(source)
    template = ChatTemplate(source, special, bos="<s>", eos="</s>")
    for case, arguments in CASES.items():
        try:
            rendered = template.render(date=DATE, **arguments)
        except AsteadyError:
            continue
        typed = json.dumps(arguments, ensure_ascii=False)
        trusted = set(rendered.trusted)
        at = 0
        while (found := special.find(rendered.text, at)) is not None:
            at = found[1]
            text = rendered.text[found[0] : at]
            assert found in trusted or text in typed, (case, text)


@pytest.mark.skipif(not FOLDER.is_dir(), reason=f"there are no templates in {FOLDER}")
@pytest.mark.parametrize("name", json.loads(DIGESTS.read_text()))
def test_a_published_template_is_rendered_as_transformers_does(name: str) -> None:
    known = json.loads(DIGESTS.read_text())[name]
    source = (FOLDER / name).read_text("utf-8")
    for case, arguments in CASES.items():
        try:
            found = _digest(_ours(source, arguments))
        except AsteadyError:
            found = _REFUSED
        if case in _MORE.get(name, ()):
            assert (known[case], found != _REFUSED) == (_REFUSED, True)
        else:
            assert found == known[case], case


def _theirs() -> Callable[[str, dict[str, Any]], str]:
    import transformers.utils.chat_template_utils as utils  # type: ignore[import-not-found]

    class Now(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Now:
            return cls(DATE.year, DATE.month, DATE.day)

    utils.datetime = Now

    def render(source: str, case: dict[str, Any]) -> str:
        continued = case.get("continued", False)
        rendered: str = utils.render_jinja_template(
            [copy.deepcopy(case["messages"])],
            tools=case.get("tools"),
            chat_template=source,
            add_generation_prompt=not continued,
            continue_final_message=continued,
            bos_token="<s>",
            eos_token="</s>",
            **case.get("options", {}),
        )[0][0]
        return rendered

    return render


def main() -> None:
    render = _theirs()
    found: dict[str, dict[str, str]] = {}
    for path in sorted(FOLDER.glob("*.jinja")):
        source = path.read_text("utf-8")
        found[path.name] = {}
        for case, arguments in CASES.items():
            try:
                found[path.name][case] = _digest(render(source, arguments))
            except Exception:  # foreign code
                found[path.name][case] = _REFUSED
    DIGESTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
