"""Damaged model files, each opened by a process that must survive it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

import gguf
import pytest

from tests.faults.campaign import rounds
from tests.faults.conftest import Tally
from tests.gguf_files import write_bert, write_llama

# A line for each model: the time that a damaged one may take, far above what one takes.
_LIMIT_S = 60.0

# Reads a kind and a path per line, and writes what came of it: an answer with whether its numbers
# are finite, or an error of asteady. Anything else ends the process.
_PROGRAM = """
import asyncio, json, math, sys
import asteady

async def answer(kind, path, cache_dir):
    async with asteady.Session(
        cache_dir=cache_dir, probe=False, workers=1, disable_cache=True
    ) as session:
        if kind == "embedding":
            vector = await session.embed("hello world", model=path)
            return ["", all(math.isfinite(number) for number in vector)]
        found = await session.complete("hello world", model=path, max_new_tokens=4, logprobs=2)
        logprobs = [number for token in found.logprobs for number in (
            token.logprob, *(logprob for _, _, logprob in token.top))]
        return [found.text, all(math.isfinite(number) for number in logprobs)]

for line in sys.stdin:
    kind, path, cache_dir = json.loads(line)
    try:
        said = ["answer", *asyncio.run(answer(kind, path, cache_dir))]
    except asteady.AsteadyError as exc:
        said = ["error", type(exc).__name__, str(exc)]
    print("\\nSAID " + json.dumps(said), flush=True)
"""


class Opener:
    """A process that opens models, one after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = (folder / "stderr").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def open(self, kind: str, path: Path) -> list[Any]:
        """What came of this model; fails if the process ends or hangs."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        timer = Timer(_LIMIT_S, process.kill)
        timer.start()
        print(json.dumps([kind, str(path), str(self._folder)]), file=process.stdin, flush=True)
        for line in process.stdout:
            if line.startswith("SAID "):
                timer.cancel()
                said: list[Any] = json.loads(line.removeprefix("SAID "))
                return said
        timer.cancel()
        process.wait()
        self._log.seek(0)
        pytest.fail(f"{path} ended the process ({process.returncode}): {self._log.read()[-500:]}")

    def close(self) -> None:
        self._process.communicate()
        self._log.close()


@contextmanager
def opened(folder: Path) -> Iterator[Opener]:
    opener = Opener(folder)
    try:
        yield opener
    finally:
        opener.close()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, str]:
    """Three small models with their kinds."""
    folder = tmp_path_factory.mktemp("sound")
    return {
        write_llama(folder / "gpt2.gguf"): "generation",
        write_llama(folder / "spm.gguf", vocabulary="spm"): "generation",
        write_bert(folder / "bert.gguf"): "embedding",
    }


@pytest.fixture(autouse=True)
def _no_debugger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGML_NO_BACKTRACE", "1")


def spoil(data: bytearray, chance: random.Random, low: int, high: int) -> None:
    """One or a few damaged places from `low` to `high`: a byte, a bit, a number, or noise."""
    for _ in range(chance.choice([1, 1, 1, 2, 8])):
        place = chance.randrange(low, high)
        how = chance.randrange(4)
        if how == 0:
            data[place] = chance.randrange(256)
        elif how == 1:
            data[place] ^= 1 << chance.randrange(8)
        elif how == 2:
            number = chance.choice(["ffffffff", "00000000", "0000807f", "0000c07f"])
            data[place : place + 4] = bytes.fromhex(number)
        else:
            data[place : place + 8] = chance.randbytes(8)


def spoil_value(data: bytearray, chance: random.Random, reader: gguf.GGUFReader) -> None:
    """Another number or text in place of a value of the metadata, of the same length."""
    scalars = [
        field
        for field in reader.fields.values()
        if len(field.types) == 1 and not field.name.startswith("GGUF.")
    ]
    field = chance.choice(scalars)
    place = field.offset + sum(part.nbytes for part in field.parts[:-1])
    size = field.parts[-1].nbytes
    limits = [0, 1, 2, 7, 255, 511, 513, 65_535, 2**31 - 1, 2**31, 2**32 - 1]
    floats = ["00000000", "000080bf", "0000c07f", "0000807f", "01000000", "ffff7f7f"]
    if field.types[0] is gguf.GGUFValueType.FLOAT32:
        data[place : place + size] = bytes.fromhex(chance.choice(floats))
    elif field.types[0] is gguf.GGUFValueType.STRING:
        data[place : place + size] = bytes(chance.choice(b"abc0 {}%") for _ in range(size))
    else:
        data[place : place + size] = (chance.choice(limits) % 256**size).to_bytes(size, "little")


Damage = Callable[[bytearray, random.Random, gguf.GGUFReader], None]


def damaged_header(data: bytearray, chance: random.Random, reader: gguf.GGUFReader) -> None:
    if chance.randrange(2):
        spoil(data, chance, 0, reader.data_offset)
    else:
        spoil_value(data, chance, reader)


def damaged_tensors(data: bytearray, chance: random.Random, reader: gguf.GGUFReader) -> None:
    spoil(data, chance, reader.data_offset, len(data) - 8)


@pytest.mark.parametrize(
    ("damage", "count"),
    [(damaged_header, rounds(100, 2000)), (damaged_tensors, rounds(200, 2000))],
    ids=["header", "tensors"],
)
def test_a_damaged_model_is_refused_or_computes_numbers(
    sound: dict[Path, str], tmp_path: Path, tally: Tally, damage: Damage, count: int
) -> None:
    readers = {path: gguf.GGUFReader(path) for path in sound}
    said: Counter[str] = Counter()
    with opened(tmp_path) as opener:
        for seed in range(count):
            chance = random.Random(seed)
            source = chance.choice(list(sound))
            data = bytearray(source.read_bytes())
            damage(data, chance, readers[source])
            path = tmp_path / f"{seed}-{source.name}"
            path.write_bytes(data)
            what, _, more = opener.open(sound[source], path)
            assert what == "error" or more is True, f"{path} gave numbers that are none"
            said[what] += 1
            path.unlink()
    tally("models", count)
    tally("answered", said["answer"])
    tally("refused", said["error"])


def test_a_model_that_is_cut_is_refused(
    sound: dict[Path, str], tmp_path: Path, tally: Tally
) -> None:
    count = rounds(30, 300)
    with opened(tmp_path) as opener:
        for index in range(count):
            source = list(sound)[index % len(sound)]
            data = source.read_bytes()
            path = tmp_path / f"{index}-{source.name}"
            path.write_bytes(data[: len(data) * index // count])
            what, name, message = opener.open(sound[source], path)
            assert (what, name) == ("error", "ModelFormatError"), message
            assert str(path) in message
            path.unlink()
    tally("models", count)


def test_a_sound_model_beside_them_answers_as_ever(sound: dict[Path, str], tmp_path: Path) -> None:
    """The process that opened damaged models still computes the right answer."""
    generating, _, embedding = sound
    spoilt = tmp_path / "spoilt.gguf"
    data = bytearray(generating.read_bytes())
    spoil(data, random.Random(1), 0, gguf.GGUFReader(generating).data_offset)
    spoilt.write_bytes(data)
    with opened(tmp_path) as opener:
        before = opener.open("generation", generating)
        opener.open("generation", spoilt)
        assert opener.open("generation", generating) == before
        assert opener.open("embedding", embedding) == ["answer", "", True]


# Opens a model in an address space that has room for so many more bytes, says what came of it, and
# then whether the same model computes when there is room again.
_NARROW = """
import asyncio, resource, sys
import asteady

async def main(path, cache_dir, room):
    async with asteady.Session(
        cache_dir=cache_dir, probe=False, workers=1, disable_cache=True
    ) as session:
        await session.embed("everything is imported and started")
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY))
        try:
            # A context is as large as its requests need.
            await session.generate("hi", model=path, max_new_tokens=4000)
            print("answer")
        except asteady.AsteadyError as exc:
            print("error", exc)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        print("then", await session.generate("hi", model=path, max_new_tokens=1) != "")

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def test_a_context_without_memory_is_an_error_and_computes_later(
    tmp_path: Path, tally: Tally
) -> None:
    """The keys and values of 4,096 positions take 537 MB, and the process may have less, but more
    than what threads and llama.cpp's small allocations need: where these fail, C ends the process.
    """
    path = write_llama(tmp_path / "model.gguf", context=4096, layers=512, kv_heads=4)
    count = rounds(3, 20)
    for round_ in range(count):
        room = 2**20 * (320 + round_ * 160 // count)
        done = subprocess.run(
            [sys.executable, "-c", _NARROW, str(path), str(tmp_path), str(room)],
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
        )
        said = done.stdout.splitlines()
        assert said[1:] == ["then True"], f"with room for {room}: {done.stdout}{done.stderr}"
        assert said[0].startswith("error llama.cpp could not make a context")
    tally("contexts", count)
