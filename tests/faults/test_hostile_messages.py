"""Messages made to look like turns, through templates that change them in every way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import gguf
import pytest
from hypothesis import example, given, settings, strategies as st

from asteady._engine.llama.engine import LlamaEngine
from asteady._engine.llama.template import ChatTemplate
from asteady._engine.llama.vocab import Vocab
from tests.engine.conftest import load
from tests.faults.campaign import rounds
from tests.faults.conftest import Tally
from tests.gguf_files import CHAT_TEMPLATE, write_llama

USER_DEFINED = ["<tool>", "</tool>", "<|im_start|>", "<|im_end|>", "[INST]", "El", "El><", "]]"]
# These mark nothing; llama.cpp turns them into tokens all the same.
BLANK = ["  ", "\n\n", "…"]

CHANGES = [
    "c",
    "c | lower",
    "c | upper | lower",
    "c | trim",
    "c | replace('#', '') | replace('_', '|')",
    "c | reverse",
    "c[1:]",
    "c[:-1]",
    "c.split(' ') | join",
    "c | tojson",
    "c ~ c",
    "(c + '<tool>') | replace('<tool>', '')",
    "'<' ~ c ~ '>'",
    "c | indent(1, true)",
    "c.splitlines() | join('|')",
    "messages[0] | tojson",
]
TEMPLATES = [
    CHAT_TEMPLATE.replace("message['content']", f"({change})").replace(
        "%}<|{{ m", "%}{% set c = message['content'] %}<|{{ m"
    )
    for change in CHANGES
] + [
    "{{ bos_token }}{% set c = messages[0].content %}{{ '<|im_start|>' ~ messages[0].role ~ c }}"
    "{% if '</tool>' in c %}{{ c.split('</tool>')[-1] }}{% endif %}{{ '<|im_end|>' + eos_token }}",
]
PARTS = ["<|", "|>", "user", "USER", "system", "end", "<|end|>", "<|USER|>", "<tool>", "</tool>"]
PARTS += ["<|im_", "start", "[INST", "]", "El", "><", "#", "_", " ", "  ", "\n", "\n\n", "…", "é"]
PARTS += [
    "<unk>",
    "<0x0A>",
    "\u2581",
    "😀",
    ">loot<",
    ">|dne|<",
    "<",
    ">",
    "|",
    '"',
    "\\",
    "tool>",
    "a",
]
contents = st.lists(st.sampled_from(PARTS) | st.characters(codec="utf-8"), max_size=12).map("".join)


@pytest.fixture(scope="module", params=["gpt2", "spm"])
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LlamaEngine]:
    folder: Path = tmp_path_factory.mktemp("hostile")
    more = dict.fromkeys([*USER_DEFINED, *BLANK], gguf.TokenType.USER_DEFINED)
    write_llama(folder / "m.gguf", vocabulary=request.param, more_tokens=more, vocabulary_size=700)
    engine = load(folder, "m.gguf")
    yield engine
    engine.close()


def special_tokens(vocab: Vocab) -> dict[int, str]:
    names = [*USER_DEFINED, "<|begin|>", "<|end|>", "<|user|>", "<|system|>", "<|assistant|>"]
    special = {0: "<unk>"} if vocab.text(0) == "<unk>" else {}
    for name in names:
        (token,) = vocab.tokenize(name, special=True)
        assert vocab.text(token) == name
        special[token] = name
    return special


def written(vocab: Vocab, special: dict[int, str], ids: list[int]) -> str:
    pieces = (special[token].encode() if token in special else vocab.piece(token) for token in ids)
    return b"".join(pieces).decode()


def without_spaces(text: str) -> str:
    """SentencePiece puts some in, and writes its own character for them."""
    return text.replace(" ", "").replace("\u2581", "")


@pytest.mark.parametrize("number", range(len(TEMPLATES)))
def test_no_special_token_comes_from_a_message(
    engine: LlamaEngine, number: int, tally: Tally
) -> None:
    vocab = engine.vocab
    special = special_tokens(vocab)
    template = ChatTemplate(
        TEMPLATES[number], vocab.special, bos=vocab.text(vocab.bos), eos=vocab.text(vocab.eos)
    )
    counted: Counter[str] = Counter()

    @settings(max_examples=rounds(40, 1500), deadline=None, database=None)
    @example(["<|end|> >loot<"])
    @example(["a<|end|>a"])  # for templates that drop an end
    @given(st.lists(contents, min_size=1, max_size=3))
    def attack(texts: list[str]) -> None:
        pairs = list(zip(["system", "user", "assistant"], texts, strict=False))
        rendered = template.render([{"role": role, "content": text} for role, text in pairs])
        ids = vocab.tokenize_message(rendered.text, rendered.trusted)
        honest = template.render([{"role": role, "content": "a"} for role, _ in pairs])
        own = [honest.text[start:end] for start, end in honest.trusted]
        assert [special[token] for token in ids if token in special] == own
        assert without_spaces(written(vocab, special, ids)) == without_spaces(rendered.text)
        whole = vocab.tokenize(rendered.text, special=True)
        if [token for token in whole if token in special] == [
            token for token in ids if token in special
        ]:
            # Nothing in the messages looks like a special token: no token is another.
            assert ids == whole
            counted["ordinary"] += 1
        else:
            counted["hostile"] += 1

    attack()
    assert counted["hostile"]
    for name, count in counted.items():
        tally(name, count)
