"""Databases damaged at rest and in use: right answers, one log entry, and a cache that heals."""

from __future__ import annotations

import logging
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import anyio
import pytest

from asteady import Session
from asteady.testing import FakeEngine
from tests.cache.helpers import change
from tests.faults.campaign import rounds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.faults.conftest import Tally

pytestmark = pytest.mark.anyio

Fault: TypeAlias = Callable[[Path], object]

PROMPTS = [f"prompt {number}" for number in range(20)]
# Far longer than any call takes, and far shorter than waiting for ever.
BOUND_S = 60.0


@asynccontextmanager
async def session_on(directory: Path) -> AsyncIterator[tuple[Session, FakeEngine]]:
    engine = FakeEngine(lambda request: f"the answer to {request.prompt}, " * 30)
    async with Session(engine=engine, cache_dir=directory) as session:
        yield session, engine


async def ask(session: Session, *prompts: str) -> None:
    """Ask each prompt; the answer is right, and comes."""
    for prompt in prompts:
        with anyio.fail_after(BOUND_S):
            assert await session.generate(prompt) == f"the answer to {prompt}, " * 30


async def heals(database: Path, session: Session) -> None:
    """Wait until what this session stores is in the database at its place."""
    number = 0
    with anyio.fail_after(BOUND_S):
        while not stored(database, f"after {number}"):
            number += 1
            await ask(session, f"after {number}")
            await anyio.sleep(0.1)


def stored(database: Path, prompt: str) -> bool:
    sql = "SELECT count(*) FROM answer WHERE request LIKE ?"
    with suppress(sqlite3.Error):
        uri = f"{database.as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            return bool(connection.execute(sql, (f'%"{prompt}"%',)).fetchone()[0])
    return False


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that is closed, with the answers to all prompts."""
    directory = tmp_path_factory.mktemp("intact") / "caches"

    async def fill() -> None:
        async with session_on(directory) as (session, _):
            await ask(session, *PROMPTS)

    anyio.run(fill)
    return directory


@pytest.fixture
def directory(intact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(intact, tmp_path / "caches"))


@pytest.fixture
def database(directory: Path) -> Path:
    return directory / "generation_cache.db"


def truncate(size_bytes: int) -> Fault:
    return lambda path: os.truncate(path, size_bytes)


def sql(*statements: str) -> Fault:
    return lambda path: change(path, *statements)


def replaced(make: Fault) -> Fault:
    def replace(path: Path) -> None:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        make(path)

    return replace


def as_link(target: str) -> Fault:
    return replaced(lambda path: path.symlink_to(target))


def hide(path: Path) -> None:
    path.rename(path.with_name("hidden"))


def put_a_file_for_the_directory(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.write_text("")


TABLES: dict[str, Fault] = {
    f"without the {kind.lower()} {name}": sql(f"DROP {kind} {name}")
    for kind, name in (
        ("TABLE", "cache"),
        ("TABLE", "entry"),
        ("TABLE", "answer"),
        ("TABLE", "ghost"),
        ("TABLE", "tag"),
        ("INDEX", "entry_by_priority"),
    )
}
COLUMNS: dict[str, Fault] = {
    "without a column of answer": sql("ALTER TABLE answer DROP COLUMN text"),
    "without a column of entry": sql("ALTER TABLE entry DROP COLUMN used_s"),
    "without a column of cache": sql("ALTER TABLE cache DROP COLUMN removals"),
}
ROWS: dict[str, Fault] = {
    "without its row": sql("DELETE FROM cache"),
    "removals of a wrong type": sql("UPDATE cache SET removals = 'many'"),
    "level of a wrong type": sql("UPDATE cache SET level = 'high'"),
    "level infinite": sql("UPDATE cache SET level = 9e999"),
    "entries of a wrong type": sql("UPDATE cache SET entries = x'00'"),
    "text that is not UTF-8": sql("UPDATE cache SET policy = CAST(x'80FF' AS TEXT)"),
    "sizes of entries of a wrong type": sql("UPDATE entry SET size_bytes = 'large'"),
    "priorities of a wrong type": sql("UPDATE entry SET priority = 'first'"),
}
# These cost their own entries only.
FEW: dict[str, Fault] = {
    "without some entries": sql("DELETE FROM entry WHERE slot % 2"),
    "without some answers": sql("DELETE FROM answer WHERE slot % 2"),
    "changed answers": sql("UPDATE answer SET text = 'another' WHERE slot % 2"),
    "keys that are not UTF-8": sql("UPDATE entry SET key = CAST(x'80FF' || key AS TEXT)"),
    "answers that are not UTF-8": sql("UPDATE answer SET model = CAST(x'80FF' AS TEXT)"),
    "exchanged slots": sql("UPDATE entry SET slot = 21 - slot"),
    "wrong totals": sql("UPDATE cache SET entries = 10000, size_bytes = 1e15"),
    "wrong sizes": sql("UPDATE entry SET size_bytes = 1000000000000000"),
    "none": lambda path: None,
}
FILES: dict[str, Fault] = {
    "empty": truncate(0),
    "cut in its header": truncate(50),
    "cut after its header": truncate(100),
    "cut in a page": truncate(10_000),
    "cut by some pages": truncate(5 * 4096),
    "text": lambda path: path.write_text("this is no database at all\n" * 1000),
    "of a later format": lambda path: write_at(path, 18, b"\x09"),
    "of a later schema format": lambda path: write_at(path, 44, b"\x00\x00\x00\x09"),
    "with another application's number": lambda path: write_at(path, 68, b"abcd"),
    "with a version that is none": lambda path: write_at(path, 60, b"abcd"),
    "a directory": replaced(lambda path: path.mkdir()),
    "a directory with something in it": replaced(lambda path: (path / "more").mkdir(parents=True)),
    "a FIFO": replaced(os.mkfifo),
    "a link to a file that is not there": as_link("nothing"),
    "a link to itself": as_link("generation_cache.db"),
    "a link to a directory": as_link("."),
    "a link to the other cache": as_link("embedding_cache.db"),
    "with a directory for its log": lambda path: Path(f"{path}-wal").mkdir(),
    "with a FIFO for its shared memory": lambda path: os.mkfifo(f"{path}-shm"),
    "with a log of noise": lambda path: Path(f"{path}-wal").write_bytes(bytes(range(256)) * 100),
}


def write_at(path: Path, place: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(data)


async def check_at_rest(directory: Path, caplog: pytest.LogCaptureFixture) -> int:
    """Open and ask until all is healed; returns how often a database was set aside."""
    aside = 0
    with caplog.at_level(logging.WARNING, "asteady"):
        # Some damage is met late, and then costs what was stored before; where two entries claim
        # one place, the next one is met when the first has been stored again.
        for _ in range(5):
            caplog.clear()
            async with session_on(directory) as (session, engine):
                await ask(session, *PROMPTS)
            messages = [record.getMessage() for record in caplog.records]
            # After closing, which writes too.
            damaged = session.cache.generation.counters.damaged
            assert len(messages) == len(set(messages)) == damaged
            aside += sum("it is kept as" in message for message in messages)
            if not (engine.computed or damaged):
                break
    assert engine.computed == []
    assert damaged == 0
    assert aside <= 1
    return aside


@pytest.mark.parametrize("fault", [*TABLES, *COLUMNS, *ROWS])
async def test_tables_columns_and_rows_that_are_not_ours(
    directory: Path, database: Path, fault: str, caplog: pytest.LogCaptureFixture, tally: Tally
) -> None:
    {**TABLES, **COLUMNS, **ROWS}[fault](database)
    assert await check_at_rest(directory, caplog) == 1
    tally("set aside", 1)


@pytest.mark.parametrize("fault", FEW)
async def test_rows_that_are_damaged_cost_no_others(
    directory: Path, database: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    FEW[fault](database)
    assert await check_at_rest(directory, caplog) == 0


@pytest.mark.parametrize("fault", FILES)
async def test_files_that_are_cut_overwritten_or_replaced(
    directory: Path, database: Path, fault: str, caplog: pytest.LogCaptureFixture, tally: Tally
) -> None:
    FILES[fault](database)
    tally("set aside", await check_at_rest(directory, caplog))


@pytest.mark.parametrize("places", ["header", "one range", "everywhere"])
async def test_noise(
    intact: Path, tmp_path: Path, places: str, caplog: pytest.LogCaptureFixture, tally: Tally
) -> None:
    for seed in range(rounds(8, 100)):
        directory = Path(shutil.copytree(intact, tmp_path / f"caches {seed}"))
        database = directory / "generation_cache.db"
        source = random.Random(f"{places} {seed}")
        content = bytearray(database.read_bytes())
        if places == "header":
            # Past the version: one byte there looks like a newer version, which is refused.
            content[64 : 64 + source.randrange(1, 36)] = source.randbytes(36)
        elif places == "one range":
            start = source.randrange(100, len(content))
            length = min(source.randrange(1, 8192), len(content) - start)
            content[start : start + length] = source.randbytes(length)
        else:
            for _ in range(200):
                content[source.randrange(100, len(content))] = source.randrange(256)
        database.write_bytes(content)
        tally("set aside", await check_at_rest(directory, caplog))
        tally("seeds", 1)


AT_REST = {**TABLES, **COLUMNS, **ROWS, **FEW, **FILES}
IN_USE: dict[str, Fault] = {
    **{name: AT_REST[name] for name in [*AT_REST][:: rounds(5, 1)] if "with a" not in name[:6]},
    "removed": lambda path: path.unlink(),
    "removed with its log": replaced(lambda path: None),
    "without its log": lambda path: Path(f"{path}-wal").unlink(),
    "without its shared memory": lambda path: Path(f"{path}-shm").unlink(),
    "moved away": hide,
    "with its directory removed": lambda path: shutil.rmtree(path.parent),
    "with a file for its directory": put_a_file_for_the_directory,
    "with its locks removed": lambda path: shutil.rmtree(path.parent / "locks"),
}
# Nothing is stored until the user removes it.
REMEDIES: dict[str, Fault] = {
    "with a file for its directory": lambda path: path.parent.unlink(),
}


@pytest.mark.parametrize("fault", IN_USE)
async def test_a_database_in_use(
    directory: Path, database: Path, fault: str, caplog: pytest.LogCaptureFixture, tally: Tally
) -> None:
    with caplog.at_level(logging.WARNING, "asteady"):
        async with session_on(directory) as (session, _):
            await ask(session, *PROMPTS[:5])
            IN_USE[fault](database)
            # Some are in memory, and some are not; new ones are written, and so are their touches.
            await ask(session, *PROMPTS[:10], *(f"new {number}" for number in range(10)))
            if fault in REMEDIES:
                REMEDIES[fault](database)
            await heals(database, session)
            await ask(session, *PROMPTS)
        messages = [record.getMessage() for record in caplog.records]
        tally("log entries", len(messages))
        assert len(messages) == len(set(messages))
        assert sum("it is kept as" in message for message in messages) <= 1
        async with session_on(directory) as (session, _):
            await ask(session, *PROMPTS)
        caplog.clear()
        async with session_on(directory) as (session, engine):
            await ask(session, *PROMPTS)
            assert engine.computed == []
        assert caplog.records == []


@pytest.mark.parametrize("fault", ["without its row", "a FIFO", "of a later schema format"])
def test_the_commands_work_on_it(directory: Path, database: Path, fault: str) -> None:
    {**ROWS, **FILES}[fault](database)
    aside = []
    for command in ("stats", "list", "clear"):
        done = subprocess.run(
            [sys.executable, "-m", "asteady", "cache", command],
            env={**os.environ, "ASTEADY_CACHE_DIR": str(directory)},
            capture_output=True,
            text=True,
            timeout=BOUND_S,
            check=False,
        )
        assert (done.returncode, "Traceback" in done.stderr) == (0, False)
        aside.append("it is kept as" in done.stderr)
    assert aside == [True, False, False]
