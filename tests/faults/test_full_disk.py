"""Disks without room: the answers come, what is stored stays, `clear` works, and the cache heals.

The disk is a tmpfs of two megabytes in a namespace of its own, or else no file may grow beyond a
limit. Each test is a child process there.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.campaign import rounds

ROOT = Path(__file__).parents[2]
MOUNT = 'mount -t tmpfs -o size="$0" tmpfs "$1"'

PRELUDE = """
import asyncio, logging, os, random, sys, time
from pathlib import Path
from tests.cache.helpers import Process, completion, fill, key_of, opened
from asteady import Session, StoreError
from asteady.testing import FakeEngine

directory, seed = Path(sys.argv[1], "caches"), int(sys.argv[2])
chance = random.Random(seed)
text = "x" * chance.randrange(500, 6000)
database = directory / "generation_cache.db"
log = directory / "generation_cache.db-wal"
messages = []

class Messages(logging.Handler):
    def emit(self, record):
        messages.append(record.getMessage())

logging.getLogger("asteady").addHandler(Messages(logging.WARNING))

def free():
    status = os.statvfs(directory.parent)
    return status.f_bavail * status.f_bsize

def size(path):
    return path.stat().st_size if path.exists() else 0

def take_the_rest():
    # Another program does.
    with open(directory.parent / "other", "ab", buffering=0) as other:
        for length in (65536, 4096, 1):
            try:
                while True:
                    other.write(bytes(length))
            except OSError:
                pass

OTHER = '''
async with opened(directory) as manager:
    say(len(await manager.generation.keys()))
    await told()
    while await manager.generation.get(key_of(7)) is not None:
        await asyncio.sleep(0.05)
    say(len(await manager.generation.keys()))
    await told()
    say(await manager.generation.put(key_of("theirs"), completion()))
'''

async def store(cache, name):
    # After a full disk it is opened again with pauses, and answers wait.
    await cache.put(key_of(name), completion(text))
    while True:
        try:
            if key_of(name) in await cache.keys():
                return
        except StoreError:
            pass
        await asyncio.sleep(0.05)

async def fill_up(cache):
    stored = []
    for number in range(10_000):
        if not await cache.put(key_of(number), completion(text)):
            return stored
        stored.append(number)
"""


def program(body: str) -> str:
    main = textwrap.indent(textwrap.dedent(body), "    ")
    return f"{PRELUDE}\nasync def main():\n{main}\nasyncio.run(main())\n"


def run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


@functools.cache
def mounts() -> bool:
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run(["unshare", "-rm", "sh", "-c", MOUNT, "1m", "/tmp"], capture_output=True)
    return tried.returncode == 0


def on_small_disk(directory: Path, *bodies: str, seed: int = 1) -> None:
    """Run these programs, one after the other, on a disk of 2 MB."""
    if not mounts():
        pytest.skip("no tmpfs can be mounted here in a namespace of its own")
    script = MOUNT + "".join(
        f' && "$2" -c "${number}" "$1" {seed}' for number in range(3, 3 + len(bodies))
    )
    run(
        [
            *("unshare", "-rm", "sh", "-c", script, "2m", str(directory), sys.executable),
            *map(program, bodies),
        ]
    )


@pytest.mark.parametrize("seed", range(rounds(1, 60)))
def test_a_cache_that_fills_its_disk(
    seed: int, tmp_path: Path, tally: Callable[[str, int], None]
) -> None:
    body = """
    async with opened(directory, generation_cache_capacity=10_000) as manager:
        cache = manager.generation
        stored = await fill_up(cache)
        assert free() >= 400_000, free()
        assert size(log) <= 700_000, size(log)
        # What is there is served and can be removed; refusals are logged once.
        for number in stored:
            cache.memory.clear()
            assert (await cache.get(key_of(number))).text == text
        for number in range(3):
            assert not await cache.put(key_of("large"), completion("x" * 600_000))
        assert len([m for m in messages if "disk is full" in m]) == 1, messages
        assert cache.counters.errors >= 4
        assert await cache.delete(key_of(0))
        assert await cache.clear() == len(stored) - 1
        assert await cache.keys() == []
        assert size(database) + size(log) < 400_000
        assert await fill_up(cache)
        assert await cache.clear()
        assert await cache.put(key_of("again"), completion(text))
    assert not log.exists()
    async with opened(directory) as manager:
        assert await manager.generation.keys() == [key_of("again")]
    """
    on_small_disk(tmp_path, body, seed=seed)
    tally("disks filled", 2)


@pytest.mark.parametrize("seed", range(rounds(2, 60)))
def test_another_program_that_fills_the_disk(
    seed: int, tmp_path: Path, tally: Callable[[str, int], None]
) -> None:
    body = """
    stored = chance.randrange(1, 100)
    async with Session(engine=FakeEngine(), cache_dir=directory) as session:
        cache = session.cache.generation
        for number in range(stored):
            await session.generate(f"prompt {number}")
        take_the_rest()
        for number in range(stored + 5):
            assert await session.generate(f"prompt {number}")
        assert cache.counters.misses == stored + 5
        assert cache.counters.errors == 5
        assert len([m for m in messages if "disk is full" in m]) == 1, messages
        if seed % 2:
            assert await cache.clear() == stored
            assert not await cache.keys()
        (directory.parent / "other").unlink()
        await session.generate("there is room again")
        assert await cache.contains((await cache.keys())[0])
        kept = len(await cache.keys())
        assert kept == (1 if seed % 2 else stored + 1)
    assert not log.exists()
    async with Session(engine=FakeEngine(), cache_dir=directory) as session:
        assert len(await session.cache.generation.keys()) == kept
    """
    on_small_disk(tmp_path, body, seed=seed)
    tally("disks filled", 1)


def test_a_clear_beside_another_process_that_has_the_database_open(tmp_path: Path) -> None:
    body = """
    async with opened(directory) as manager:
        await fill(manager, range(100))
        with Process(directory, OTHER) as other:
            assert other.hear() == "100"
            take_the_rest()
            assert await manager.generation.clear() == 100
            assert any("was removed" in message for message in messages), messages
            other.tell()
            assert await asyncio.to_thread(other.hear) == "0"
            (directory.parent / "other").unlink()
            other.tell()
            assert await asyncio.to_thread(other.hear) == "True"
            assert other.finish() == 0
        await store(manager.generation, "ours")
        assert await manager.generation.keys() == sorted([key_of("theirs"), key_of("ours")])
    """
    on_small_disk(tmp_path, body)


@pytest.mark.parametrize("log_left", [False, True])
def test_a_clear_in_the_next_process(log_left: bool, tmp_path: Path) -> None:
    body = f"""
    async with opened(directory) as manager:
        await fill(manager, range(100))
        if {log_left}:
            # As after a crash, without the shared memory for which there is no room then.
            (directory / "generation_cache.db-shm").unlink()
            take_the_rest()
            os._exit(0)
    take_the_rest()
    """
    next_body = """
    async with opened(directory) as manager:
        # It waits, and is dropped by the clear.
        asked_s = time.time()
        assert not await manager.generation.put(key_of("none"), completion(text), asked_s=asked_s)
        assert await manager.generation.clear() == 100
        (directory.parent / "other").unlink()
        await store(manager.generation, "more")
    async with opened(directory) as manager:
        assert await manager.generation.keys() == [key_of("more")]
    """
    on_small_disk(tmp_path, body, next_body)


@pytest.mark.parametrize("log_left", [False, True])
def test_the_command_clears(log_left: bool, tmp_path: Path) -> None:
    body = f"""
    async with opened(directory) as manager:
        await fill(manager, range(100))
        if {log_left}:
            take_the_rest()
            os._exit(0)
    take_the_rest()
    """
    next_body = """
    import subprocess
    def command(*arguments):
        program = "import asteady.cli; raise SystemExit(asteady.cli.main())"
        environment = os.environ | {"ASTEADY_CACHE_DIR": str(directory)}
        return subprocess.run(
            [sys.executable, "-c", program, "cache", *arguments],
            env=environment, capture_output=True, text=True,
        )
    done = command("clear")
    assert "removed 100 entries" in done.stdout, done
    assert done.returncode == 0, done
    (directory.parent / "other").unlink()
    done = command("list")
    assert done.returncode == 0, done
    assert size(database) + size(log) < 100_000
    """
    on_small_disk(tmp_path, body, next_body)


def test_many_answers_at_once_of_which_some_fit(tmp_path: Path) -> None:
    body = """
    async with opened(directory, generation_cache_capacity=10_000) as manager:
        cache = manager.generation
        puts = [cache.put(key_of(n), completion("x" * 3000)) for n in range(2000)]
        stored = sum(await asyncio.gather(*puts))
    async with opened(directory, generation_cache_capacity=10_000) as manager:
        # Some came late, and were stored all the same.
        assert max(1, stored) <= len(await manager.generation.keys()) < 2000
        assert free() >= 400_000
    """
    on_small_disk(tmp_path, body)


def test_an_import_for_which_there_is_no_room_changes_nothing(tmp_path: Path) -> None:
    body = """
    import tempfile
    with tempfile.TemporaryDirectory() as elsewhere:
        async with opened(Path(elsewhere, "caches"), generation_cache_capacity=10_000) as manager:
            await fill(manager, range(2000))
            await manager.export_entries(Path(elsewhere, "export.db"))
        async with opened(directory, generation_cache_capacity=10_000) as manager:
            await fill(manager, range(-3, 0))
            try:
                await manager.import_entries(Path(elsewhere, "export.db"))
            except StoreError as exc:
                assert "disk is full" in str(exc), exc
            else:
                raise AssertionError
            assert len(await manager.generation.keys()) == 3
            assert await manager.generation.put(key_of("more"), completion())
    """
    on_small_disk(tmp_path, body)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit to the size of files")
def test_a_limit_to_the_size_of_files(tmp_path: Path) -> None:
    body = """
    import resource
    async with opened(directory, generation_cache_capacity=10_000) as manager:
        cache = manager.generation
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (chance.randrange(200_000, 900_000), limits[1]))
        stored = await fill_up(cache)
        for number in stored:
            cache.memory.clear()
            assert await cache.get(key_of(number)) is not None
        assert await cache.clear() == len(stored)
        assert await cache.put(key_of("again"), completion(text))
    async with opened(directory) as manager:
        assert await manager.generation.keys() == [key_of("again")]
    """
    run([sys.executable, "-c", program(body), str(tmp_path), "1"])
