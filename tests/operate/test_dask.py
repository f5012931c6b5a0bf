"""Bulk work on a real cluster of Dask with three worker processes, which is started once."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import dask
import dask.bag
import dask.dataframe
import numpy as np
import pandas as pd
import pytest
from dask.delayed import delayed
from distributed import Client, LocalCluster

import asteady
from asteady import SettingsOptions, Vector
from asteady._base.settings import PREFIXES
from asteady.operate.dask import embed, generate
from asteady.operate.dask._session_plugin import settings_of_worker
from asteady.operate.dask._window import Window
from tests.faults.campaign import rounds
from tests.operate.dask_workers import computed, keep_apart, set_variable
from tests.redis_server import RedisServer


@contextmanager
def three_workers() -> Iterator[LocalCluster]:
    patience = {f"distributed.comm.timeouts.{name}": "300s" for name in ("connect", "tcp")}
    with pytest.MonkeyPatch.context() as patch, dask.config.set(patience):
        for name in [name for name in os.environ if name.startswith(PREFIXES)]:
            patch.delenv(name)
        patch.setenv("ASTEADY_STORE_TIMEOUT_S", "60")
        with LocalCluster(
            n_workers=3, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
        ) as cluster:
            yield cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """One for all tests that leave its workers alone."""
    with three_workers() as cluster:
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster) as client:
        yield client


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> SettingsOptions:
    """Those of sessions that several tests share."""
    return {"cache_dir": str(tmp_path_factory.mktemp("bulk"))}


@pytest.fixture
def own_settings(tmp_path: Path) -> SettingsOptions:
    """Those of sessions of the test's own."""
    return {"cache_dir": str(tmp_path / "bulk")}


def texts(count: int) -> list[str]:
    return [f"Document {number} is about {number % 7} kinds of cache." for number in range(count)]


def with_repeats(count: int, new_each: int) -> list[str]:
    """Texts of which each `new_each`th is new, and the others repeat one from near or far."""
    chosen = random.Random(0)
    every: list[str] = []
    for number in range(count):
        every.append(chosen.choice(every) if number % new_each else f"Text {number}")
    return every


def same(found: Iterable[Vector], expected: Iterable[Vector]) -> bool:
    return [vector.tobytes() for vector in found] == [vector.tobytes() for vector in expected]


async def embedded(every: list[str]) -> Vector:
    """By a session in this process."""
    async with asteady.Session(embedding_cache_capacity=10**6) as session:
        return await session.embed(every)


def computed_in_all(client: Client, settings: SettingsOptions) -> int:
    counts: dict[str, int] = client.run(computed, cache_dir=str(settings["cache_dir"]))
    return sum(counts.values())


@pytest.mark.parametrize(("end", "count"), [("killed", 10_000), ("restarted", 300)])
def test_a_worker_ends_in_the_middle_and_nothing_is_missing(
    own_settings: SettingsOptions, end: str, count: int
) -> None:
    every = with_repeats(count, new_each=rounds(10, 1))
    # Its own, as distributed may lose a worker for good that it starts again on a busy machine.
    with three_workers() as cluster, Client(cluster) as client:
        answers = embed(client, every, settings=own_settings, batch_size=count // 50)
        found = [next(answers) for _ in range(count // 3)]
        pids: dict[str, int] = client.run(os.getpid)
        busy = max(pids, key=lambda worker: len(client.processing()[worker]))
        if end == "killed":
            os.kill(pids[busy], signal.SIGKILL)
        else:
            client.restart_workers([busy], raise_for_error=False)
        found += answers
        assert pids[busy] not in client.run(os.getpid).values()
    assert len(found) == len(every)
    assert same(found, asyncio.run(embedded(every)))


def test_equal_texts_are_computed_once_in_all_processes(
    client: Client, own_settings: SettingsOptions
) -> None:
    distinct = texts(60)
    # Some repeat soon, others when the first one is long forgotten by the client.
    every = distinct + distinct[:5] * 30 + distinct[::-1] * 4
    found = list(embed(client, every, settings=own_settings, batch_size=4))
    assert len({id(vector) for vector in found}) < len(every)
    assert same(found, asyncio.run(embedded(every)))
    assert computed_in_all(client, own_settings) == len(distinct)


def test_machines_with_a_shared_cache_compute_each_text_once(
    client: Client, tmp_path: Path, redis_server: RedisServer
) -> None:
    settings: SettingsOptions = {
        "shared_cache": redis_server.url,
        "shared_cache_timeout_s": 60,
        "cache_dir": None,
    }
    client.run(partial(keep_apart, cache_dir=str(tmp_path)))
    every = texts(60)
    found = [list(embed(client, every, settings=settings, batch_size=size)) for size in (4, 5, 7)]
    expected = asyncio.run(embedded(every))
    assert all(same(vectors, expected) for vectors in found)
    assert len(list(tmp_path.iterdir())) >= 3
    counts: dict[str, int] = client.run(computed, cache_dir=str(tmp_path))
    assert sum(counts.values()) == len(every)


def test_a_bag_and_a_delayed_list(client: Client, own_settings: SettingsOptions) -> None:
    every = texts(20)
    expected = asyncio.run(embedded(every))
    bag = embed(client, dask.bag.from_sequence(every, npartitions=3), settings=own_settings)
    assert bag.npartitions == 3
    assert same(bag.compute(), expected)
    matrix = embed(client, delayed(every), settings=own_settings)
    assert same(matrix.compute(), expected)
    assert computed_in_all(client, own_settings) == len(every)


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # of pandas, about Dask
def test_parquet_in_and_out(client: Client, settings: SettingsOptions, tmp_path: Path) -> None:
    every = texts(12)
    table = pd.DataFrame({"id": range(13), "text": [*every[:5], None, *every[5:]]})
    dask.dataframe.from_pandas(table, npartitions=3).to_parquet(tmp_path / "texts")
    frame = dask.dataframe.read_parquet(tmp_path / "texts")
    frame = frame.assign(
        vector=embed(client, frame["text"], settings=settings),
        answer=generate(client, frame["text"], settings=settings, max_new_tokens=3),
        kind=generate(client, frame["text"], settings=settings, schema={"enum": [{"a": 1}]}),
    )
    frame.to_parquet(tmp_path / "out", schema=None)
    found = dask.dataframe.read_parquet(tmp_path / "out").compute()
    assert list(found["id"]) == list(range(13))
    assert found[found["text"].isna()].isna().sum(axis=1).item() == 4
    found = found.dropna()
    assert list(found["text"]) == every
    assert {vector.dtype for vector in found["vector"]} == {np.dtype(np.float32)}
    assert same(found["vector"], asyncio.run(embedded(every)))
    assert list(found["kind"]) == [{"a": 1}] * 12

    async def generated() -> list[str]:
        async with asteady.Session() as session:
            return [await session.generate(text, max_new_tokens=3) for text in every]

    assert list(found["answer"]) == asyncio.run(generated())


def test_prompts_have_options_of_their_own_and_a_common_prefix(
    client: Client, settings: SettingsOptions
) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    prompts: list[Any] = [
        "Hello",
        {"prompt": "Hello", "max_new_tokens": 2},
        {"messages": messages},
        {"prompt": "Hello", "temperature": 1, "seed": 3},
    ]

    async def generated() -> list[str]:
        async with asteady.Session() as session:
            calls = session.prefix("You are brief.")
            return [
                await calls.generate("Hello", max_new_tokens=5),
                await calls.generate("Hello", max_new_tokens=2),
                await calls.generate(messages=messages, max_new_tokens=5),
                await calls.generate("Hello", max_new_tokens=5, temperature=1, seed=3),
            ]

    found = generate(
        client, prompts, prefix="You are brief.", max_new_tokens=5, settings=settings, batch_size=1
    )
    assert list(found) == asyncio.run(generated())


def test_typed_answers(client: Client, settings: SettingsOptions) -> None:
    found = generate(client, ["Is water wet?"] * 2, choices=["yes", "no"], settings=settings)
    assert set(found) <= {"yes", "no"}
    numbers = generate(client, ["How many?"], schema=int, settings=settings, max_new_tokens=50)
    assert [type(number) for number in numbers] == [int]


def test_an_error_is_raised_with_the_number_of_its_text_or_returned(
    client: Client, settings: SettingsOptions
) -> None:
    every: list[Any] = [*texts(5), "much " * 40_000, *texts(6)]
    answers = embed(client, every, settings=settings, batch_size=3)
    assert len([next(answers) for _ in range(3)]) == 3
    with pytest.raises(asteady.PromptTooLongError) as raised:
        next(answers)
    assert raised.value.__notes__ == ["(at texts[5])"]

    found = list(embed(client, every, settings=settings, batch_size=3, errors="return"))
    assert isinstance(found.pop(5), asteady.PromptTooLongError)
    expected = asyncio.run(embedded([*texts(5), *texts(6)]))
    assert same([vector for vector in found if isinstance(vector, np.ndarray)], expected)

    bag = dask.bag.from_sequence(every, npartitions=1)
    with pytest.raises(asteady.PromptTooLongError) as raised:
        embed(client, bag, settings=settings).compute()
    assert raised.value.__notes__ == ["(at texts[5] of a partition)"]
    column = dask.dataframe.from_pandas(pd.Series(every), npartitions=1)
    nulls = embed(client, column, settings=settings, errors="return").isna().compute()
    assert list(nulls) == [number == 5 for number in range(len(every))]

    with pytest.raises(asteady.ModelNotFoundError, match=r"none\.gguf"):
        next(embed(client, ["one"], model="none.gguf", settings=settings, errors="return"))
    wrong: Any = ["one", 2]
    with pytest.raises(asteady.InvalidRequestError, match="text=2 is not allowed: a str"):
        list(embed(client, wrong, settings=settings))


def test_an_iterator_is_read_no_further_than_batches_are_computed(
    client: Client, settings: SettingsOptions
) -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield f"text {read % 50}"

    answers = embed(client, endless(), settings=settings, batch_size=2)
    first = next(answers)
    # Twelve batches, of which the first one was taken.
    assert read == 12 * 2
    for _ in range(99):
        last = next(answers)
    assert read <= 100 + 12 * 2
    assert first.tobytes() == next(answers).tobytes() != last.tobytes()
    assert not first.flags.writeable


def test_dropping_the_answers_releases_what_was_begun(
    client: Client, settings: SettingsOptions
) -> None:
    gc.disable()  # which would release it much later
    try:
        answers = embed(client, texts(40), settings=settings, batch_size=1)
        next(answers)
        assert len(client.futures) >= 11
        del answers
        deadline_s = time.monotonic() + 60
        while client.futures and time.monotonic() < deadline_s:
            client.run_on_scheduler(list)  # a turn of its loop
        assert client.futures == {}
    finally:
        gc.enable()


def test_a_client_that_is_closed_is_told(cluster: LocalCluster, settings: SettingsOptions) -> None:
    with Client(cluster) as client:
        answers = embed(client, texts(40), settings=settings, batch_size=1)
        next(answers)
    with pytest.raises(asteady.InvalidRequestError, match="the client is closed"):
        list(answers)
    with pytest.raises(asteady.InvalidRequestError, match="the client is closed"):
        next(embed(client, ["one"], settings=settings))


def test_a_session_that_cannot_be_opened_is_tried_again(
    client: Client, own_settings: SettingsOptions
) -> None:
    client.run(set_variable, "ASTEADY_BATCH_WIDTH", "wide")
    with pytest.raises(asteady.SettingsError, match="ASTEADY_BATCH_WIDTH='wide'"):
        next(embed(client, ["one"], settings=own_settings))
    client.run(set_variable, "ASTEADY_BATCH_WIDTH", "")
    assert len(list(embed(client, ["one", "two", "three"], settings=own_settings))) == 3


def test_a_short_queue_is_no_error(client: Client, own_settings: SettingsOptions) -> None:
    own_settings["max_pending"] = 1
    assert len(list(embed(client, texts(40), settings=own_settings, batch_size=20))) == 40


def test_the_dashboard_shows_the_tasks_by_name(client: Client, settings: SettingsOptions) -> None:
    list(embed(client, texts(4), settings=settings, batch_size=1))

    def done(dask_scheduler: Any) -> int:
        return int(dask_scheduler.task_prefixes["asteady_embed"].state_counts["memory"])

    before: int = client.run_on_scheduler(done)
    list(embed(client, texts(4), settings=settings, batch_size=1))
    assert client.run_on_scheduler(done) == before + 4


@pytest.mark.anyio
async def test_an_asynchronous_client(cluster: LocalCluster, settings: SettingsOptions) -> None:
    every = texts(10)

    async def arriving() -> AsyncIterator[str]:
        for text in every:
            await asyncio.sleep(0)
            yield text

    expected = await embedded(every)
    async with Client(cluster.scheduler_address, asynchronous=True) as client:
        found = [vector async for vector in embed(client, every, settings=settings, batch_size=3)]
        assert same(found, expected)
        found = [vector async for vector in embed(client, arriving(), settings=settings)]
        assert same(found, expected)
        with pytest.raises(asteady.InvalidRequestError, match="iterate with `async for`"):
            next(embed(client, every))
        with pytest.raises(asteady.InvalidRequestError, match="a client that is not asynchronous"):
            embed(client, dask.bag.from_sequence(every))


async def nothing() -> AsyncIterator[str]:
    yield ""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("one text", r"texts='one text' is not allowed: an iterable, or of Dask a Bag"),
        (7, "texts=7 is not allowed"),
        ([delayed(list)("ab")], r"dask\.bag\.from_delayed"),
        (dask.dataframe.from_dict({"a": ["x"]}, npartitions=1), r"texts\['column'\]"),
    ],
)
def test_what_is_no_collection_of_texts_is_refused(
    client: Client, given: Any, message: str
) -> None:
    with pytest.raises(asteady.InvalidRequestError, match=message):
        embed(client, given)


def test_mistakes_are_refused_before_anything_is_sent(client: Client) -> None:
    anything: Any = client
    with pytest.raises(asteady.InvalidRequestError, match=r"embed\(\) has no option 'max_tokens'"):
        embed(anything, ["one"], max_tokens=3)  # type: ignore[call-overload]
    with pytest.raises(asteady.InvalidRequestError, match="temperature='hot' is not allowed"):
        generate(anything, ["one"], temperature="hot")  # type: ignore[call-overload]
    with pytest.raises(asteady.InvalidRequestError, match="client='localhost' is not allowed"):
        embed("localhost", ["one"])  # type: ignore[call-overload]
    with pytest.raises(asteady.InvalidRequestError, match=r"settings=.* is not allowed: a mapping"):
        embed(anything, ["one"], settings=asteady.Settings())  # type: ignore[call-overload]
    with pytest.raises(asteady.SettingsError, match="there is no setting 'worker'"):
        embed(anything, ["one"], settings={"worker": 2})  # type: ignore[call-overload]
    with pytest.raises(asteady.InvalidRequestError, match="errors='ignore' is not allowed"):
        embed(anything, ["one"], errors="ignore")  # type: ignore[call-overload]
    with pytest.raises(asteady.InvalidRequestError, match="batch_size=0 is not allowed"):
        embed(anything, ["one"], batch_size=0)
    with pytest.raises(asteady.InvalidRequestError, match="prefix"):
        generate(anything, ["one"], prefix="")
    with pytest.raises(asteady.InvalidRequestError, match=r"an async iterable .* needs"):
        next(embed(client, nothing()))


@pytest.mark.anyio
async def test_async_for_needs_an_asynchronous_client(client: Client) -> None:
    with pytest.raises(asteady.InvalidRequestError, match="iterate with `for`"):
        await anext(embed(client, ["one"]))


@pytest.mark.filterwarnings("ignore:Running on a single-machine")  # of an older Dask
def test_a_collection_cannot_be_computed_elsewhere(
    client: Client, settings: SettingsOptions
) -> None:
    bag = embed(client, dask.bag.from_sequence(["one"]), settings=settings)
    with pytest.raises(asteady.SessionError, match="no session is open here"):
        bag.compute(scheduler="synchronous")


def test_a_worker_has_its_own_cores_and_caches_without_a_bound_of_entries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = settings_of_worker({}, threads=6)
    assert (settings.cores, settings.workers) == (6, 4)
    assert settings.embedding_cache_capacity == settings.generation_cache_capacity == 10**9
    monkeypatch.setenv("ASTEADY_CORES", "3")
    monkeypatch.setenv("STEADYTEXT_EMBEDDING_CACHE_CAPACITY", "7")
    settings = settings_of_worker({"workers": 1}, threads=6)
    assert (settings.cores, settings.workers, settings.embedding_cache_capacity) == (3, 1, 7)


class Batches:
    """Batches that are submitted to it, each a future of its number."""

    def __init__(self) -> None:
        self.items: list[list[Any]] = []
        self.numbers: list[list[int]] = []

    def submit(self, items: list[Any], numbers: list[int]) -> int:
        self.items.append(items)
        self.numbers.append(numbers)
        return len(self.items) - 1


def test_equal_items_are_put_into_one_place_while_they_wait() -> None:
    batches = Batches()
    window = Window(batches.submit, 2)
    for item in ["a", "b", "a", "c", "b", {"n": 1}, {"n": 1}, {"n": True}]:
        window.add(item)
    assert batches.items == [["a", "b"], ["c", {"n": 1}]]
    assert batches.numbers == [[0, 1], [3, 5]]
    assert window.is_full(2)
    assert window.is_full(4)
    assert not window.is_full(5)
    assert window.head() == 0
    assert window.take(["A", "B"]) == ["A", "B", "A"]
    assert not window.is_full(3)
    window.add("b")  # still waited for
    window.add("a")  # forgotten
    assert window.head() == 1
    assert window.take(["C", "N"]) == ["C", "B", "N", "N"]
    assert batches.items[2:] == [[{"n": True}, "a"]]
    assert window.head() == 2
    assert window.take(["T", "A"]) == ["T", "B", "A"]
    assert window.head() is None


def test_long_texts_make_short_batches() -> None:
    batches = Batches()
    window = Window(batches.submit, 256)
    for number in range(5):
        window.add(f"{number}" * 600_000)
    assert [len(batch) for batch in batches.items] == [2, 2]


def test_a_batch_that_is_not_full_is_sent_when_its_answer_is_asked_for() -> None:
    batches = Batches()
    window = Window(batches.submit, 3)
    window.add("a")
    assert batches.items == []
    assert window.head() == 0
    window.add("b")
    assert window.take(["A"]) == ["A"]
    assert window.head() == 1
    assert batches.items == [["a"], ["b"]]


def test_operate_imports_no_dask_and_without_it_says_what_to_install() -> None:
    program = """
import sys, asteady.operate
asteady.operate.__all__
assert not {"dask", "distributed"} & set(sys.modules)
sys.modules["distributed"] = None
try:
    import asteady.operate.dask
except ImportError as exc:
    print(exc)
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert 'python -m pip install "asteady[dask]"' in run.stdout
