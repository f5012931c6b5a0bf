"""Another process replaces the model file, in every way and at any moment."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from asteady import ModelChangedError, Session
from tests.faults.campaign import rounds
from tests.faults.conftest import Tally
from tests.gguf_files import write_llama
from tests.waiting import until

pytestmark = pytest.mark.anyio

TOKENS = 64

# argv: the seed, the path, and the models that take turns there.
REPLACE = """
import itertools, os, random, shutil, sys, time

seed, path, *models = sys.argv[1:]
draw = random.Random(seed)

def rename(model):
    shutil.copy(model, path + ".new")
    os.replace(path + ".new", path)

def link(model):
    os.symlink(model, path + ".link")
    os.replace(path + ".link", path)

def write(model):
    if os.path.islink(path):
        return rename(model)
    status = os.stat(path)
    with open(model, "rb") as source, open(path, "r+b") as target:
        target.write(source.read())
    if draw.random() < 0.5:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

print("ready", flush=True)
for model in itertools.cycle(models):
    draw.choice([rename, link, write, write])(model)
    # At most two changes for each call that has ended, so that no step sees three: it could not
    # tell them from one.
    os.read(0, 1000)
    time.sleep(draw.uniform(0, 0.1))
"""


@contextmanager
def replacing(seed: int, path: Path, *models: Path) -> Iterator[Callable[[], None]]:
    """Yields what is to be called at the end of each call."""
    command = [sys.executable, "-c", REPLACE, str(seed), str(path), *map(str, models)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"

        def ended() -> None:
            assert process.stdin is not None
            process.stdin.write(b".")

        try:
            yield ended
            assert process.poll() is None
        finally:
            process.kill()


def new_session(path: Path, **settings: Any) -> Session:
    return Session(
        generation_model=str(path),
        probe=False,
        workers=1,
        generation_cache_capacity=100_000,
        **settings,
    )


@pytest.mark.parametrize("seed", range(rounds(1, 10)))
async def test_a_model_file_is_replaced_by_another_process(
    seed: int, tmp_path: Path, tally: Tally
) -> None:
    prompts = [f"prompt {number}" for number in range(rounds(100, 1000))]
    models = [write_llama(tmp_path / f"{number}.gguf", seed=number) for number in (1, 2)]
    path = tmp_path / "model.gguf"
    path.write_bytes(models[0].read_bytes())
    again = 0
    with replacing(seed, path, *models) as ended:
        async with new_session(path, idle_unload_s=0.03) as session:
            for number, prompt in enumerate(prompts):
                while True:
                    try:
                        await session.generate(prompt, max_new_tokens=TOKENS)
                        break
                    except ModelChangedError:
                        again += 1
                    finally:
                        ended()
                if number % 4 == 0:
                    await until(lambda: not session.statistics().pools)
            entries = await session.cache.generation.entries(-1)
    found = {}
    for model in models:
        async with new_session(model) as session:
            for prompt in prompts:
                truth = await session.complete(prompt, max_new_tokens=TOKENS, cache="bypass")
                if await session.is_cached(prompt, max_new_tokens=TOKENS):
                    cached = await session.complete(prompt, max_new_tokens=TOKENS, cache="only")
                    assert (cached.text, cached.fingerprint) == (truth.text, truth.fingerprint)
            found[truth.fingerprint] = [
                entry for entry in entries if entry.fingerprint == truth.fingerprint
            ]
    assert len(found) == 2
    assert all(found.values())
    tally("answers", len(entries))
    tally("of a file read while it was half written", len(entries) - sum(map(len, found.values())))
    tally("calls to repeat", again)
