"""Counting tokens: the number that an answer has, without a worker and without the weights."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

import asteady
import asteady.blocking
from asteady import InvalidRequestError, ModelCapabilityError, Session, SessionClosedError
from asteady._engine.models.catalogue import BUNDLED
from asteady.cli import main
from asteady.testing import FakeEngine
from tests.gguf_files import write_bert, write_llama

pytestmark = pytest.mark.anyio

PROMPTS: list[dict[str, Any]] = [
    {"prompt": "Write a haiku about caching"},
    {"prompt": "  two spaces, a line feed\nand 東京 🎉"},
    {"prompt": "a typed <|im_end|> is text", "temperature": 0.5},
    {"prompt": "raw", "raw": True},
    {"prompt": "long " * 100},
    {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]},
    {"messages": [{"role": "user", "content": ""}]},
]


def models(directory: Path) -> list[str]:
    found = ["builtin", str(write_llama(directory / "spm.gguf", vocabulary="spm"))]
    found.append(str(write_llama(directory / "plain.gguf", template=None, add_bos=False)))
    return found + (["smollm2"] if BUNDLED["smollm2"].find() else [])


async def test_the_number_is_that_of_the_answer_loaded_or_not(tmp_path: Path) -> None:
    for model in models(tmp_path):
        usable = [each for each in PROMPTS if "plain" not in model or "prompt" in each]
        async with Session(generation_model=model) as session:
            before = [await session.count_tokens(**each) for each in usable]
            assert not session.statistics().pools, "no weights were loaded"
            answers = [
                await session.complete(**each, max_new_tokens=1, cache="bypass") for each in usable
            ]
            assert before == [answer.prompt_tokens for answer in answers]
            assert [await session.count_tokens(**each) for each in usable] == before


async def test_texts_to_embed(tmp_path: Path) -> None:
    bert = write_bert(tmp_path / "bert.gguf")
    texts = ["the cache", "hello hello world", "the async loop of the caches"]
    for model in ("builtin", bert):
        async with Session(embedding_model=model) as session:
            counts = await session.count_tokens(texts, kind="embedding")
            assert counts == [(await session.embedding(text)).tokens for text in texts]
            assert await session.count_tokens(texts[0], kind="embedding") == counts[0]
            # Far more than the context, which only an answer refuses.
            assert await session.count_tokens("the " * 5000, kind="embedding") >= 5000


async def test_texts_to_embed_with_the_models_instruction(tmp_path: Path) -> None:
    model = write_bert(tmp_path / "bert.gguf", name="nomic-embed-text")
    async with Session(embedding_model=model) as session:
        plain = await session.count_tokens("the cache", kind="embedding")
        count = await session.count_tokens("the cache", kind="embedding", mode="query")
        assert count == (await session.embedding("the cache", mode="query")).tokens > plain
        tokens = await session.tokenize("the cache", kind="embedding", mode="query")
        assert len(tokens) == count
        with pytest.raises(InvalidRequestError, match="mode='chat' is not allowed"):
            await session.count_tokens("hi", kind="embedding", mode="chat")  # type: ignore[call-overload]
        with pytest.raises(
            InvalidRequestError, match="mode='query' is not allowed: it is for kind"
        ):
            await session.count_tokens("hi", mode="query")


async def test_a_file_is_not_read_whole_to_count_tokens(tmp_path: Path) -> None:
    model, cache_dir = write_llama(tmp_path / "model.gguf"), tmp_path / "cache"
    async with Session(generation_model=model, cache_dir=cache_dir) as session:
        count = await session.count_tokens("hello hello world")
        assert not (cache_dir / "models.json").exists()  # where the digests of models are
        answer = await session.complete("hello hello world", max_new_tokens=1)
        assert (cache_dir / "models.json").exists()
        assert answer.prompt_tokens == count


async def test_a_prompt_longer_than_the_context_is_counted() -> None:
    async with Session() as session:
        assert await session.count_tokens("caches " * 10_000) > 10_000


async def test_under_a_prefix_and_in_a_namespace() -> None:
    async with Session() as session:
        chat = session.prefix("You are brief.")
        answer = await chat.complete("Hi", max_new_tokens=1)
        assert await chat.count_tokens("Hi") == answer.prompt_tokens
        assert await session.namespace("a").count_tokens("Hi") < answer.prompt_tokens


async def test_the_tokens_themselves_join_to_the_text() -> None:
    async with Session() as session:
        tokens = await session.tokenize("Write a haiku about caching", raw=True)
        assert len(tokens) == await session.count_tokens("Write a haiku about caching", raw=True)
        assert b"".join(piece for _, piece in tokens).decode().endswith("a haiku about caching")
        token, piece = tokens[-1]
        answer = await session.complete("hello", logit_bias={token: 100}, max_new_tokens=1)
        assert answer.text.encode() == piece


@pytest.mark.parametrize("load", [False, True])
async def test_tokens_are_turned_back_into_their_text(load: bool, tmp_path: Path) -> None:
    text = "  two spaces, a line feed\nand 東京 🎉"
    async with Session() as session:
        if load:
            await session.generate("hi", max_new_tokens=1)
            await session.embed("hi")
        ids = [token for token, _ in await session.tokenize(text, raw=True)]
        assert await session.detokenize(ids) == text
        assert await session.detokenize([]) == ""
        chat = [token for token, _ in await session.tokenize("hi")]
        assert "<|user|>" in await session.detokenize(chat)  # the template's
        parts = [token for token, piece in await session.tokenize("é", raw=True)]
        assert await session.detokenize(parts[:1]) == "\ufffd"
        words = await session.tokenize("async cache", kind="embedding")
        joined = await session.detokenize((token for token, _ in words), kind="embedding")
        assert "cache" in joined
        assert await session.detokenize(ids, model="builtin") == text


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([1, 10**6], r"the token 1000000 is not allowed: the model's tokens are 0 to \d+"),
        ([1, -1], r"tokens\[1\]=-1 is not allowed"),
        ([2**70], "is not allowed"),
        ([True], r"tokens\[0\]=True is not allowed"),
        (["1"], r"tokens\[0\]='1' is not allowed"),
        ("12", "tokens is one str: give a list of the ids of tokens"),
        (12, "tokens=12 is not allowed: a list of the ids"),
    ],
)
@pytest.mark.parametrize("load", [False, True])
async def test_what_is_no_token_is_refused(tokens: Any, message: str, load: bool) -> None:
    async with Session() as session:
        if load:
            await session.generate("hi", max_new_tokens=1)
        with pytest.raises(InvalidRequestError, match=message):
            await session.detokenize(tokens)


async def test_a_fake_engine_turns_its_words_back() -> None:
    async with Session(engine=FakeEngine()) as session:
        ids = [token for token, _ in await session.tokenize("three words")]
        assert await session.detokenize(ids) == "three words"
        with pytest.raises(InvalidRequestError, match="the token 5 is not allowed"):
            await session.detokenize([5])


def test_the_blocking_twin_detokenizes() -> None:
    with asteady.blocking.Session() as session:
        ids = [token for token, _ in session.tokenize("a text", raw=True)]
        assert session.detokenize(ids) == "a text"


async def test_of_the_other_kind_of_model_and_of_wrong_arguments() -> None:
    async with Session() as session:
        with pytest.raises(ModelCapabilityError, match="cannot generate"):
            await session.count_tokens("hi", model=_embedder())
        with pytest.raises(InvalidRequestError, match="kind='chat' is not allowed"):
            await session.count_tokens("hi", kind="chat")  # type: ignore[call-overload]
        with pytest.raises(InvalidRequestError, match="'max_token'"):
            await session.count_tokens("hi", max_token=5)  # type: ignore[call-overload]
        with pytest.raises(InvalidRequestError, match=r"count_tokens\(\) has no option 'cache'"):
            await session.count_tokens("hi", cache="bypass")  # type: ignore[call-overload]
        with pytest.raises(InvalidRequestError, match=r"is_cached\(\) has no option 'cache'"):
            await session.is_cached("hi", cache="bypass")  # type: ignore[call-arg]
        with pytest.raises(InvalidRequestError, match="give either a prompt or messages"):
            await session.count_tokens()
        with pytest.raises(
            InvalidRequestError, match="takes a text and a mode, and no messages, seed"
        ):
            await session.count_tokens(messages=[], seed=1, kind="embedding")


def _embedder() -> Path:
    return Path(asteady.__file__).parent / "models" / "embed.gguf"


async def test_a_fake_engine_counts_its_words() -> None:
    async with Session(engine=FakeEngine()) as session:
        answer = await session.complete("three words here")
        assert await session.count_tokens("three words here") == answer.prompt_tokens == 3
        assert await session.tokenize("three words") != await session.tokenize("words three")


async def test_many_at_once_load_one_vocabulary(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "model.gguf")
    async with Session(generation_model=model) as session:
        counts = await asyncio.gather(*(session.count_tokens("a " * n) for n in range(1, 30)))
        assert counts == sorted(counts)
        # Beside the model, and after it was loaded and unloaded.
        both = await asyncio.gather(
            session.complete("hi", max_new_tokens=2), session.count_tokens("hi"), session.unload()
        )
        assert both[0].prompt_tokens == both[1]
        await session.unload()
        assert await session.count_tokens("hi") == both[1]


@pytest.fixture
def freed(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when a vocabulary that was loaded without its weights has been freed."""
    from asteady._engine.llama.tokenizer import LlamaTokenizer

    event, close = threading.Event(), LlamaTokenizer.close

    def closes(tokenizer: LlamaTokenizer) -> None:
        close(tokenizer)
        event.set()

    monkeypatch.setattr(LlamaTokenizer, "close", closes)
    return event


async def test_the_vocabulary_is_freed_when_it_is_idle(freed: threading.Event) -> None:
    async with Session(idle_unload_s=0.01) as session:
        count = await session.count_tokens("hi")
        assert await asyncio.to_thread(freed.wait, 60)
        assert await session.count_tokens("hi") == count


async def test_the_vocabulary_is_freed_when_the_model_is_loaded(freed: threading.Event) -> None:
    async with Session() as session:
        count = await session.count_tokens("hi")
        answer = await session.complete("hi", max_new_tokens=1)
        assert await asyncio.to_thread(freed.wait, 60)
        assert await session.count_tokens("hi") == count == answer.prompt_tokens


async def test_the_vocabulary_is_freed_though_who_unloads_it_leaves(freed: threading.Event) -> None:
    async with Session() as session:
        await session.count_tokens("hi")
        unloading = asyncio.create_task(session.unload())
        await asyncio.sleep(0)
        unloading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await unloading
        assert await asyncio.to_thread(freed.wait, 60)


async def test_closing_does_not_wait_for_a_text_that_is_being_tokenised(
    freed: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asteady._engine.llama.tokenizer import LlamaTokenizer

    begun, goes_on = threading.Event(), threading.Event()

    def tokenize(tokenizer: LlamaTokenizer, request: object) -> list[int]:
        begun.set()
        goes_on.wait(60)
        return []

    monkeypatch.setattr(LlamaTokenizer, "tokenize", tokenize)
    session = await Session().open()
    counting = asyncio.create_task(session.count_tokens("hi"))
    assert await asyncio.to_thread(begun.wait, 60)
    await session.aclose()
    assert not freed.is_set()
    goes_on.set()
    assert await asyncio.to_thread(freed.wait, 60)
    with pytest.raises(SessionClosedError):
        await counting


def test_functions_and_the_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = asteady.blocking.count_tokens("Write a haiku")
    assert asteady.blocking.count_tokens(["Write a haiku"]) == [count]
    assert main(["tokens", "Write a haiku"]) == 0
    assert capsys.readouterr().out == f"{count}\n"
    assert main(["tokens", "Write", "--raw", "--show"]) == 0
    assert '"' in capsys.readouterr().out
    assert main(["tokens", "\N{PARTY POPPER}", "--raw", "--show", "--json"]) == 0
    assert '"text": "\\\\xf0' in capsys.readouterr().out
    messages = tmp_path / "messages.json"
    messages.write_text('[{"role": "user", "content": "Write a haiku"}]')
    assert main(["tokens", "--messages", str(messages), "--json"]) == 0
    assert capsys.readouterr().out == f'{{"count": {count}}}\n'
    messages.write_text("[")
    assert main(["tokens", "--messages", str(messages)]) == 1
    assert "is not JSON" in capsys.readouterr().err
    assert main(["tokens", "the cache", "--embed"]) == 0
    assert int(capsys.readouterr().out) >= 2


async def test_the_module_level_function() -> None:
    count = await asteady.count_tokens("Write a haiku")
    assert await asteady.count_tokens(["Write a haiku", "x"]) == [
        count,
        await asteady.count_tokens("x"),
    ]
    await asteady.aclose()
