"""Prompts made to take for ever: no other request waits for them, and no process dies of them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asteady import PromptTooLongError, Session
from tests.faults.campaign import LONG, rounds
from tests.faults.conftest import Tally
from tests.gguf_files import write_llama

pytestmark = pytest.mark.anyio

# Each would take llama.cpp from seconds to hours.
HUGE = ["A", "tide and moon ", "漢字", " ", "<|user|>x", "<|user", "'\""]


@pytest.fixture
async def session(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Session]:
    monkeypatch.setenv("ASTEADY_PROBE", "0")
    async with Session() as session:
        await session.load()
        yield session


def huge(text: str, characters: int) -> str:
    return text * (characters // len(text))


async def test_a_huge_text_is_refused(session: Session, tally: Tally) -> None:
    for text in (huge(text, rounds(4, 64) * 10**6) for text in HUGE):
        calls = [
            session.generate(text),
            session.generate(text, raw=True),
            session.generate(messages=[{"role": "user", "content": text}]),
            session.prefix(text[: 2**22]).generate("hi"),
            session.embed(text),
            session.embed(["short", text]),
        ]
        for result in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(result, PromptTooLongError), result
            tally("refused", 1)
    with pytest.raises(PromptTooLongError):
        await session.generate(messages=[{"role": "user", "content": "hi"}] * 100_000)
    async with session.stream("hi", max_new_tokens=2) as stream:
        assert (await stream.read()).text


async def test_short_requests_pass_what_takes_long_to_prepare(
    session: Session, tally: Tally
) -> None:
    # A word of 20 MB is tokenised as a whole, which takes half a minute.
    truncated = asyncio.ensure_future(session.embed(huge("x", 20 * 10**6), truncate=True))
    # As much as is tokenised at all.
    long = [asyncio.ensure_future(session.generate(huge(text, 60_000), raw=True)) for text in HUGE]
    for number in range(rounds(3, 100)):
        await session.generate(f"short {number}", max_new_tokens=1)
        await session.embed(f"short {number}")
        tally("short requests answered", 2)
        if number < 10:
            assert not truncated.done()
    truncated.cancel()
    for result in await asyncio.gather(*long, return_exceptions=True):
        assert isinstance(result, PromptTooLongError), result


CHILD = """
import asyncio, sys
from pathlib import Path
from asteady._base.errors import PromptTooLongError
from asteady._base.requests import GenerateRequest
from asteady._engine.loader import load_engine
from asteady._engine.models.resolve import resolve_model
from asteady._engine.plan import EngineOptions
from asteady._engine.pool import Pool

path, character, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
file = resolve_model(path, kind="generation", cache_dir=Path(path).parent)
engine = load_engine(file, EngineOptions(probe=False, context_tokens=20_000), Path(path).parent)

async def main():
    pool = Pool(engine, workers=1, max_pending=9)
    for size in (60_000, count):
        try:
            await pool.run(GenerateRequest.of(character * size, raw=True))
        except PromptTooLongError as error:
            print(error)
    await pool.aclose()

asyncio.run(main())
"""


@pytest.mark.parametrize("pre", ["tekken", "deepseek-llm"] if LONG else ["tekken"])
@pytest.mark.parametrize("character", ["A", " ", "."] if LONG else ["A"])
def test_a_pre_tokenizer_that_recurses_does_not_overflow_the_stack(
    pre: str, character: str, tmp_path: Path, tally: Tally
) -> None:
    write_llama(tmp_path / "it.gguf", context=20_000, pre=pre)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "it.gguf"), character, "200000"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 2
    tally("processes that live", 1)
