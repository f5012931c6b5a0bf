from __future__ import annotations

import pytest

from asteady._base.errors import InvalidRequestError, ModelCapabilityError
from asteady._engine.llama.prompt import ChatTemplate, Segment
from tests.gguf_files import CHAT_TEMPLATE

HELLO = [("user", "Hello")]


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, bos="<s>", eos="</s>")


def test_messages_are_rendered_up_to_where_the_answer_begins() -> None:
    assert template(CHAT_TEMPLATE).render([("system", "Be brief."), ("user", "Hi")]) == (
        "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n"
    )


def test_a_template_knows_the_special_tokens_and_can_write_json() -> None:
    source = "{{ bos_token }}{{ messages | tojson }}{{ eos_token }}"
    assert template(source).render([("user", "é")]) == ('<s>[{"role": "user", "content": "é"}]</s>')


def test_a_template_may_mark_the_generation_and_break_out_of_a_loop() -> None:
    source = (
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% break %}{% endfor %}"
    )
    assert template(source).render([("user", "a"), ("user", "b")]) == "a"


def test_a_template_has_no_clock() -> None:
    source = "{% if strftime_now is defined %}now{% else %}some day{% endif %}"
    assert template(source).render(HELLO) == "some day"


def test_a_template_that_refuses_the_messages_is_the_callers_error() -> None:
    with pytest.raises(InvalidRequestError, match="roles must alternate"):
        template("{{ raise_exception('roles must alternate') }}").render(HELLO)


@pytest.mark.parametrize(
    "source",
    ["{{ messages.__class__.__mro__ }}", "{{ messages[9].content }}", "{{ 1 / 0 }}"],
)
def test_a_template_that_fails_or_leaves_the_sandbox_is_the_models_error(source: str) -> None:
    with pytest.raises(ModelCapabilityError, match="raw=True"):
        template(source).render(HELLO)


def test_a_template_that_is_no_template_is_the_models_error() -> None:
    with pytest.raises(ModelCapabilityError, match="is not valid"):
        template("{% for %}")


def test_what_the_user_wrote_is_told_from_what_the_template_wrote() -> None:
    assert template(CHAT_TEMPLATE).segments([("user", "x <|end|>"), ("user", "1")]) == [
        Segment("<|user|>\n", trusted=True),
        Segment("x <|end|>", trusted=False),
        Segment("<|end|>\n<|user|>\n", trusted=True),
        Segment("1", trusted=False),
        Segment("<|end|>\n<|assistant|>\n", trusted=True),
    ]


def test_a_template_that_trims_is_followed() -> None:
    segments = template("<|u|>{{ messages[0].content | trim }}<|e|>").segments([("user", " x ")])
    assert segments == [
        Segment("<|u|>", trusted=True),
        Segment("x", trusted=False),
        Segment("<|e|>", trusted=True),
    ]


def test_a_template_that_changes_the_content_cannot_be_followed() -> None:
    assert template("{{ messages[0].content | upper }}").segments([("user", "x")]) is None


def test_a_template_that_refuses_unknown_content_cannot_be_followed() -> None:
    source = (
        "{% if messages[0].content != 'x' %}{{ raise_exception('no') }}{% endif %}"
        "{{ messages[0].content }}"
    )
    assert template(source).segments([("user", "x")]) is None
