"""Reasoning told from text: by the splitter alone, and on llama.cpp with models that think."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs
import pytest

from asteady._base.errors import IncompleteAnswerError
from asteady._base.requests import Completion, GenerateRequest
from asteady._engine.api import AnswerEvent, ChunkEvent, Event
from asteady._engine.llama.engine import LlamaEngine
from asteady._engine.loader import fingerprint_of
from asteady._engine.models.resolve import resolve_model
from asteady._engine.models.thinking_tags import ThinkingTags, tags_of
from asteady._engine.output.thinking import ReasoningSplitter, hidden
from asteady._engine.plan import EngineOptions
from tests.engine.conftest import load
from tests.engine.driving import generate
from tests.gguf_files import CHAT_TEMPLATE, write_bigram

TEMPLATES = Path(__file__).parents[4] / "shared" / "templates"
THINK = ThinkingTags("<think>", "</think>")
CHANNELS = tags_of("<|channel|>analysis<|message|> <|channel|>final<|message|>")
KNOWS = "{# <think></think> #}"
OPENS = CHAT_TEMPLATE.replace("<|assistant|>\n{% endif", "<|assistant|>\n<think>\n{% endif")
Open = Callable[..., LlamaEngine]


def split(
    text: str, *, tags: ThinkingTags = THINK, opened: bool = False, size: int = 1
) -> tuple[str, str]:
    splitter = ReasoningSplitter(tags, opened=opened)
    reasoning = shown = ""
    parts = [splitter.add(text[at : at + size]) for at in range(0, len(text), size)]
    for part in [*parts, splitter.end()]:
        assert not (shown and part[0]), "reasoning after text"
        reasoning, shown = reasoning + part[0], shown + part[1]
    return reasoning, shown


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("<think>\nI see.\n\nGo.\n</think>\n\nHello\n", ("I see.\n\nGo.", "Hello\n")),
        ("\n <think>a</think>b", ("a", "b")),
        ("<think>\n\n</think>\n\nHello", ("", "Hello")),
        ("<think>a </thin k> </thi", ("a </thin k> </thi", "")),
        ("<think>a\n", ("a\n", "")),
        ("<think>a</think>", ("a", "")),
        ("<think>a</think>\n\n<think> is a tag</think>", ("a", "<think> is a tag</think>")),
        ("<thi", ("", "<thi")),
        ("  <thing> <think>", ("", "  <thing> <think>")),
        ("Hello <think>a</think>", ("", "Hello <think>a</think>")),
        ("a</think>b", ("", "a</think>b")),
        (" \n", ("", " \n")),
        ("", ("", "")),
    ],
)
def test_an_answer_is_split_however_it_is_cut(
    answer: str, expected: tuple[str, str], size: int
) -> None:
    assert split(answer, size=size) == expected


@pytest.mark.parametrize("size", [1, 4, 100])
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("\nI see.\n</think>\nHello", ("I see.", "Hello")),
        ("\n<think>\nI see.</think>Hello", ("I see.", "Hello")),
        ("<think about it</think>Hello", ("<think about it", "Hello")),
        ("</think>Hello", ("", "Hello")),
        ("<thi", ("<thi", "")),
        (" a ", ("a ", "")),
    ],
)
def test_a_prompt_that_ends_with_the_tag_has_opened_it(
    answer: str, expected: tuple[str, str], size: int
) -> None:
    assert split(answer, opened=True, size=size) == expected


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_channels_are_told_by_their_names(size: int) -> None:
    assert CHANNELS is not None
    begin, final = "<|start|>assistant", "<|channel|>final<|message|>"
    think = "<|channel|>analysis<|message|>"
    for answer, expected in (
        (f"{think}a b<|end|>{begin}{final}Hello", ("a b", "Hello")),
        (f"{think}a<|end|>{begin}{think}b<|end|>{begin}{final}Hello", ("a\nb", "Hello")),
        (f"{final}Hello", ("", "Hello")),
        ("Hello", ("", "Hello")),
    ):
        assert split(answer, tags=CHANNELS, size=size) == expected


def test_what_control_tokens_say_is_not_shown() -> None:
    assert split(hidden("<think>") + "a" + hidden("</think>") + "b") == ("a", "b")
    assert split("Hello" + hidden("<think>")) == ("", "Hello")
    assert split(hidden("</think>") + "Hello") == ("", "Hello")
    assert split(hidden("<think>") + "a" + hidden("<think>")) == ("a", "")


@pytest.fixture
def open_model(tmp_path: Path) -> Iterator[Open]:
    engines = []

    def open_model(
        *answer: str | bytes,
        after: str = "\n",
        template: str = KNOWS + CHAT_TEMPLATE,
        control: Sequence[str] = (),
        user_defined: Sequence[str] = (),
    ) -> LlamaEngine:
        write_bigram(
            tmp_path / "bigram.gguf",
            [after, *answer],
            control=control,
            user_defined=user_defined,
            template=template,
        )
        engines.append(load(tmp_path, "bigram.gguf"))
        return engines[-1]

    yield open_model
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("kind", ["control", "user_defined"])
def test_reasoning_between_special_tokens(open_model: Open, kind: str) -> None:
    tags = ["<think>", "</think>"]
    engine = open_model(tags[0], " I", " see", " ", tags[1], "\n\n", "Hel", "lo", **{kind: tags})
    answer = generate(engine, "Hi", logprobs=0)
    assert answer.reasoning_chunks == ("I", " see")
    assert answer.reasoning == "I see"
    assert answer.chunks == ("Hel", "lo")
    assert answer.text == "Hello"
    assert (answer.reasoning_tokens, answer.completion_tokens) == (5, 8)
    assert len(answer.logprobs or ()) == 8


def test_tags_that_are_split_over_tokens_and_characters_that_are_too(open_model: Open) -> None:
    engine = open_model("<th", "ink>X", b"\xc3", b"\xa9 <", "/think", "> H", "ello")
    answer = generate(engine, "Hi")
    assert answer.reasoning_chunks == ("X", "é")
    assert answer.chunks == ("H", "ello")
    assert answer.reasoning_tokens == 6


def test_chunks_come_with_their_kind(open_model: Open) -> None:
    engine = open_model("<think>", "a", "</think>", "b", "c")
    worker = engine.open_worker()
    slot = worker.admit(engine.prepare(GenerateRequest.of("Hi")))
    events: list[Event] = []
    while not any(isinstance(event, AnswerEvent) for event in events):
        events += worker.step()
    chunks = [event for event in events if isinstance(event, ChunkEvent)]
    assert chunks == [
        ChunkEvent(slot, "a", "reasoning"),
        ChunkEvent(slot, "b"),
        ChunkEvent(slot, "c"),
    ]
    worker.close()


def test_the_limit_bounds_both_and_may_cut_the_reasoning(open_model: Open) -> None:
    engine = open_model("<think>", "a", "b", "</think>", "c", "d")
    cut = generate(engine, "Hi", max_new_tokens=3)
    assert (cut.reasoning, cut.text, cut.finish_reason) == ("ab", "", "length")
    assert (cut.reasoning_tokens, cut.completion_tokens) == (3, 3)
    assert cut.chunks == ()
    assert generate(engine, "Hi", max_new_tokens=5).text == "c"


def test_stop_strings_are_looked_for_in_the_text_only(open_model: Open) -> None:
    engine = open_model("<think>", "a", "stop", "</think>", "b", "st", "op", "c")
    answer = generate(engine, "Hi", stop=["stop", "think"])
    assert (answer.reasoning, answer.text, answer.finish_reason) == ("astop", "b", "stop")
    assert answer.completion_tokens == 7


def test_a_prompt_that_opens_the_tag_starts_in_reasoning(open_model: Open) -> None:
    tags = ["<think>", "</think>"]
    engine = open_model("I", " see", tags[1], "Hello", template=OPENS + KNOWS, control=tags)
    answer = generate(engine, "Hi")
    assert (answer.reasoning, answer.text, answer.reasoning_tokens) == ("I see", "Hello", 3)
    assert generate(engine, "Hi", max_new_tokens=2).reasoning == "I see"


def test_an_empty_block_in_the_prompt_leaves_no_reasoning(open_model: Open) -> None:
    template = OPENS.replace("<think>\n", "<think>\n\n</think>\n\n")
    engine = open_model(" Hel", "lo", after="\n\n", template=template)
    # Two line feeds are one token only if there is a merge for them.
    assert "\n\n" not in generate(engine, "Hi").text
    answer = generate(engine, "Hi")
    assert (answer.reasoning, answer.reasoning_tokens) == (None, 0)


TAGS = ["<think>", "</think>"]


@pytest.mark.parametrize("kind", ["control", "user_defined"])
def test_a_form_begins_after_the_reasoning(open_model: Open, kind: str) -> None:
    engine = open_model(TAGS[0], "I", " see", TAGS[1], "no", **{kind: TAGS})
    answer = generate(engine, "Hi", choices=["yes", "now"], logprobs=0)
    assert (answer.reasoning, answer.text) == ("I see", "now")
    assert len(answer.logprobs or ()) == answer.completion_tokens
    assert answer.reasoning_tokens == 4
    # Text that looks like the tag comes after it.
    assert generate(engine, "Hi", choices=[TAGS[0]]).text == TAGS[0]


def test_a_form_begins_after_the_reasoning_that_the_prompt_opened(open_model: Open) -> None:
    engine = open_model("a", TAGS[1], "no", template=OPENS + KNOWS, control=TAGS)
    answer = generate(engine, "Hi", choices=["yes", "now"])
    assert (answer.reasoning, answer.text) == ("a", "now")


def test_what_is_behind_the_end_tag_in_its_token_is_not_of_the_form(open_model: Open) -> None:
    engine = open_model("a", "</think", ">x", "yes", template=OPENS + KNOWS)
    answer = generate(engine, "Hi", choices=["yes"])
    assert (answer.reasoning, answer.text) == ("a", "yes")


def test_an_answer_that_ends_in_its_reasoning_lacks_its_form(open_model: Open) -> None:
    engine = open_model("a", "b", template=OPENS + KNOWS, control=TAGS)
    with pytest.raises(IncompleteAnswerError, match="ended its answer in its reasoning"):
        generate(engine, "Hi", choices=["yes"])
    with pytest.raises(IncompleteAnswerError, match="cut after 1 tokens"):
        generate(engine, "Hi", choices=["yes"], max_new_tokens=1)
    assert generate(engine, "Hi").reasoning == "ab"


def test_without_such_a_template_or_raw_an_answer_is_what_it_was(open_model: Open) -> None:
    pieces = ["<think>", " a", "</think>", "\n", "b"]
    engine = open_model(*pieces[:3], "b", template=CHAT_TEMPLATE)
    answer = generate(engine, "Hi")
    assert answer.chunks == ("<think>", " a", "</think>", "b")
    assert (answer.reasoning, answer.reasoning_tokens) == (None, 0)
    knowing = open_model(*pieces[:3], "b")
    assert generate(knowing, "\n", raw=True).chunks == answer.chunks
    assert generate(knowing, "Hi").reasoning == "a"


def test_a_users_tag_opens_nothing(open_model: Open) -> None:
    template = KNOWS + "{{ messages[-1]['content'] }}"
    engine = open_model("a", "</think>", "b", after=">", template=template)
    answer = generate(engine, "Hi <think>")
    assert (answer.reasoning, answer.text) == (None, "a</think>b")


def test_channels_on_llama_cpp(open_model: Open) -> None:
    engine = open_model(
        "<|channel|>",
        "analysis",
        "<|message|>",
        "I see",
        control=["<|channel|>", "<|message|>"],
        template="{# <|channel|>analysis<|message|> <|channel|>final<|message|> #}" + CHAT_TEMPLATE,
    )
    answer = generate(engine, "Hi")
    assert (answer.reasoning, answer.text) == ("I see", "")
    assert answer.reasoning_tokens == 4


def test_answers_of_a_thinking_model_have_keys_of_their_own(tmp_path: Path) -> None:
    # In those that earlier versions stored the reasoning is part of the text.
    write_bigram(tmp_path / "bigram.gguf", template=KNOWS + CHAT_TEMPLATE)
    file = resolve_model(str(tmp_path / "bigram.gguf"), kind="generation", cache_dir=tmp_path)
    assert file.header.thinks
    plain = attrs.evolve(file, header=attrs.evolve(file.header, thinks=False))
    options = EngineOptions()
    assert fingerprint_of(file, options, tmp_path) != fingerprint_of(plain, options, tmp_path)


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("Qwen-Qwen3-0.6B", "<think>"),
        ("Qwen-QwQ-32B", "<think>"),
        ("deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "<think>"),
        ("deepseek-ai-DeepSeek-V3.1", "<think>"),
        ("HuggingFaceTB-SmolLM3-3B", "<think>"),
        ("GLM-4.6", "<think>"),
        ("Kimi-K2-Thinking", "<think>"),
        ("MiniMax-M2", "<think>"),
        ("MiniMax-M3", "<mm:think>"),
        ("NVIDIA-Nemotron-Nano-v2", "<think>"),
        ("ByteDance-Seed-OSS", "<seed:think>"),
        ("mistralai-Ministral-3-14B-Reasoning-2512", "[THINK]"),
        ("Apertus-8B-Instruct", "<|inner_prefix|>"),
        ("Cohere2MoE", "<|START_THINKING|>"),
        ("google-gemma-4-31B-it", "<|channel>thought"),
        ("openai-gpt-oss-120b", "<|channel|>analysis<|message|>"),
        ("llm-jp-llm-jp-4.1-8b-thinking", "<|channel|>analysis<|message|>"),
        ("upstage-Solar-Open-100B", "<|think|>"),
        ("Apriel-1.6-15b-Thinker-fixed", "Here are my reasoning steps:"),
        ("Qwen-Qwen2.5-7B-Instruct", None),
        ("meta-llama-Llama-3.3-70B-Instruct", None),
        ("google-gemma-2-2b-it", None),
        ("ibm-granite-granite-4.0", None),
    ],
)
def test_the_tags_of_published_templates(name: str, start: str | None) -> None:
    path = TEMPLATES / f"{name}.jinja"
    if not path.exists():
        pytest.skip("the published templates are not here")
    tags = tags_of(path.read_text())
    assert (None if tags is None else tags.start) == start


def test_a_completion_makes_the_message_of_the_next_turn() -> None:
    answer = Completion(
        text="Hello",
        chunks=("Hello",),
        reasoning="I see",
        reasoning_chunks=("I see",),
        reasoning_tokens=2,
        finish_reason="stop",
        prompt_tokens=1,
        completion_tokens=3,
        seed=0,
        model="m",
        fingerprint="f",
        cost_s=1.0,
    )
    assert answer.message() == {
        "role": "assistant",
        "content": "Hello",
        "reasoning_content": "I see",
    }
