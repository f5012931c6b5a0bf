"""The dashboard's data, and the page as it is sent."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

import asteady
import asteady.server
from asteady._session.generation import context_of
from asteady.server._dashboard.curve import CapacityCurve
from asteady.server._dashboard.history import PERIOD_S, History
from asteady.testing import FakeEngine
from tests.serving import serving

pytestmark = pytest.mark.anyio

PAGE = Path(asteady.server.__file__).parent / "_dashboard/page"
MARKUP = '<img src=x onerror="document.title=1">'


@pytest.fixture
async def client(session: asteady.Session) -> AsyncIterator[httpx.AsyncClient]:
    app = Starlette()
    app.mount("/some/where", asteady.server.dashboard(session))
    app.mount("/prompts", asteady.server.dashboard(session, show_prompts=True))
    async with serving(app) as address, httpx.AsyncClient(base_url=address) as client:
        yield client


async def data(client: httpx.AsyncClient, mount: str = "/some/where") -> dict[str, Any]:
    response = await client.get(f"{mount}/data")
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def without_times(statistics: asteady.SessionStatistics) -> dict[str, Any]:
    return json.loads(json.dumps(statistics.as_dict()))  # type: ignore[no-any-return]


async def test_the_numbers_are_those_of_the_session(
    session: asteady.Session, engine: FakeEngine, client: httpx.AsyncClient
) -> None:
    for prompt in ("a", "b", "a", "a"):
        await session.generate(prompt)
    await session.embed("a")
    found = await data(client)
    assert found["session"] == without_times(session.statistics())
    pool = found["session"]["pools"]["generation:builtin"]
    assert (pool["finished"], pool["answer_tokens"]) == (2, 6)
    stats = await session.cache.get_cache_stats()
    for kind in ("generation", "embedding"):
        for name, value in stats[kind].items():
            if not name.endswith("latency_s"):  # asking for them takes time
                assert found["caches"][kind][name] == value, name
    assert (found["caches"]["generation"]["hits"], found["caches"]["embedding"]["misses"]) == (2, 1)


async def test_computations_in_progress_have_an_age_and_waiters(
    session: asteady.Session, engine: FakeEngine, client: httpx.AsyncClient
) -> None:
    engine.hold()
    calls = [asyncio.ensure_future(session.generate(prompt)) for prompt in ("a", "a", "b")]
    await engine.wait_computed(2)
    first, second = session.flights()
    assert (first.waiters, second.waiters) == (2, 1)
    assert first.age_s >= second.age_s > 0
    assert (first.kind, first.model, first.prompt) == ("generation", "builtin", "a")
    flights = (await data(client))["flights"]
    assert [flight["waiters"] for flight in flights] == [2, 1]
    assert flights[0]["key"] == first.key
    assert flights[0]["age_s"] >= first.age_s
    engine.resume()
    await asyncio.gather(*calls)
    assert session.flights() == ()


@pytest.mark.parametrize("mount", ["/some/where", "/prompts"])
async def test_prompts_are_only_sent_where_they_are_asked_for(
    session: asteady.Session, engine: FakeEngine, client: httpx.AsyncClient, mount: str
) -> None:
    await session.generate(MARKUP + "secret")
    await session.generate(MARKUP + "secret")
    engine.hold()
    running = asyncio.ensure_future(session.generate("also secret"))
    await engine.wait_computed(2)
    found = await data(client, mount)
    assert len(found["flights"]) == len(found["entries"]) == 1
    assert ("secret" in json.dumps(found)) is (mount == "/prompts")
    assert ("prompt" in found["flights"][0]) is (mount == "/prompts")
    engine.resume()
    await running


async def test_the_history_is_there_before_anybody_asks_and_only_new_samples_are_sent_again(
    session: asteady.Session,
) -> None:
    history = History(session)
    await session.generate("a")
    history.sample()
    await session.generate("a")
    await session.generate("a")
    history.sample()
    samples = history.since(0)
    assert (samples["misses"], samples["hits"], samples["errors"]) == ([1, 0], [0, 2], [0, 0])
    assert samples["tokens"] == [4, 0]
    assert history.since(samples["at_s"][0])["hits"] == [2]
    assert history.since(samples["at_s"][1])["hits"] == []


async def test_counters_that_begin_again_make_no_negative_numbers(
    session: asteady.Session, tmp_path: Path
) -> None:
    async with asteady.Session(cache_dir=tmp_path) as real:
        history = History(real)
        await real.generate("a", max_new_tokens=3, cache="bypass")
        await real.generate("a", max_new_tokens=3, cache="bypass")
        history.sample()
        await real.unload()
        await real.generate("a", max_new_tokens=3, cache="bypass")
        history.sample()
        await real.unload()
        history.sample()
    first, again, nothing = history.since(0)["tokens"]
    assert first > again > 0
    assert nothing == 0


async def test_the_history_begins_when_the_session_opens_and_ends_with_it(
    engine: FakeEngine,
) -> None:
    session = asteady.Session(engine=engine)
    asleep, ended = asyncio.Semaphore(0), asyncio.Event()
    waking = asyncio.Semaphore(0)

    async def sleep(seconds: float) -> None:
        assert seconds == PERIOD_S
        asleep.release()
        try:
            await waking.acquire()
        except asyncio.CancelledError:
            ended.set()
            raise

    history = History(session, sleep=sleep)
    made_s = history.began_s
    context_of(session).tasks.spawn_when_open(history.run)
    async with session:
        await asleep.acquire()
        assert history.began_s > made_s
        for prompt in "aaab":
            await session.generate(prompt)
        waking.release()
        await asleep.acquire()
        assert history.since(0)["misses"] == [2]
        curve = history.curves["generation"].points(256)
        assert curve is not None
        # The commit of the last one took the hits along.
        assert (curve["accesses"], curve["now"]) == (4, 0.5)
    assert ended.is_set()


async def test_a_session_that_is_not_open_is_told(engine: FakeEngine) -> None:
    session = asteady.Session(engine=engine)
    transport = httpx.ASGITransport(asteady.server.dashboard(session))
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        response = await client.get("/data")
        assert (response.status_code, response.json()["error"][:22]) == (
            503,
            "the session is not ope",
        )
        async with session:
            assert (await client.get("/data")).status_code == 200
            assert (await client.get("/data?since=soon")).status_code == 400
        assert (await client.get("/data")).status_code == 503
        assert (await client.get("/")).status_code == 200


async def test_the_page_is_found_below_any_mount_and_needs_nothing_from_elsewhere(
    client: httpx.AsyncClient,
) -> None:
    redirected = await client.get("/some/where")
    assert redirected.headers["location"].endswith("/some/where/")
    page = await client.get("/some/where/")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert not re.search(r"\son\w+=|<style|style=|<script>|https?://", page.text)
    names = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
    assert {"style.css", "dashboard.js", "theme.js", "icon.svg", "data"} <= set(names)
    for name in {*names, "charts.js"}:
        response = await client.get(f"/some/where/{name}")
        assert response.status_code == 200, name
        assert response.headers["x-content-type-options"] == "nosniff"


def test_a_curve_falls_to_what_an_unlimited_cache_would_miss() -> None:
    now_s = 0.0
    curve = CapacityCurve(clock=lambda: now_s)
    assert curve.points(4) is None
    for _ in range(3):
        for key in "abcdefgh":
            curve.add(key, 1, 1.0)
    now_s = 100.0
    found = curve.points(4)
    assert found is not None
    assert (found["now"], found["best"]) == (1.0, 1 - 16 / 24)
    assert found["capacities"] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert found["miss_ratios"] == [1.0] * 7 + [found["best"]]


async def test_entries_can_be_listed_by_what_they_have_saved(session: asteady.Session) -> None:
    for prompt in ("used", "used", "not used"):
        await session.generate(prompt)
    first, second = await session.cache.generation.entries(order_by="saved")
    assert first.prompt == "used"
    assert first.saved_s == first.cost_s * (first.touches - 1) >= second.saved_s == 0


def _luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _themes() -> list[dict[str, str]]:
    blocks = re.findall(r":root[^{]*\{([^}]*)\}", (PAGE / "style.css").read_text("utf-8"))
    return [dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in blocks]


def test_all_colours_of_texts_and_lines_are_told_from_what_is_behind() -> None:
    light, dark, chosen_dark = _themes()
    assert dark == chosen_dark
    for theme in (light, dark):
        for front, behind, least in [
            *((text, "card", 4.5) for text in ("text", "muted", "accent", "second", "bad")),
            *((text, "page", 4.5) for text in ("text", "muted", "accent")),
            ("text", "bad-soft", 4.5),
            *((line, "card", 3.0) for line in ("accent", "second", "good")),
            ("good", "page", 3.0),
            ("accent", "accent-soft", 3.0),
        ]:
            one, two = sorted((_luminance(theme[front]), _luminance(theme[behind])))
            assert (two + 0.05) / (one + 0.05) >= least, (front, behind, theme[front])


async def test_what_cannot_be_read_is_left_out(
    session: asteady.Session, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await session.generate("a")

    async def fails(*args: object) -> None:
        raise asteady.StoreError("the disk is gone")

    monkeypatch.setattr(session.cache.generation, "entries", fails)
    found = await data(client)
    assert found["entries"] == []
    assert found["caches"]["generation"]["size"] == 1


async def test_a_session_without_a_cache_has_a_dashboard_too() -> None:
    session = asteady.Session(engine=FakeEngine(), disable_cache=True)
    transport = httpx.ASGITransport(asteady.server.dashboard(session))
    async with session, httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        await session.generate("a")
        found = (await client.get("/data")).json()
    assert (found["entries"], found["curves"]["generation"]) == ([], None)
    assert found["session"]["pools"]["generation:builtin"]["finished"] == 1
    assert found["session"]["machine"] is None


async def test_the_machine_and_the_weights_are_those_of_the_real_engine(tmp_path: Path) -> None:
    async with asteady.Session(cache_dir=tmp_path, cores=1, context_memory_mb=64) as session:
        assert session.statistics().machine is None
        await session.generate("a", max_new_tokens=2)
        machine = session.statistics().machine
        assert machine is not None
        assert (machine.cores, machine.threads, machine.max_context_bytes) == (1, 1, 64 * 2**20)
        assert 0 < machine.context_bytes <= machine.max_context_bytes
        (pool,) = session.statistics().pools.values()
        assert pool.weights_bytes is not None
        assert 2**20 < pool.weights_bytes < 100 * 2**20
        await session.unload()
        released = session.statistics().machine
        assert released is not None
        assert released.context_bytes == 0


def test_a_session_of_another_kind_is_refused(engine: FakeEngine) -> None:
    with (
        asteady.blocking.Session(engine=engine) as session,
        pytest.raises(asteady.InvalidRequestError, match=r"an asteady\.Session"),
    ):
        asteady.server.dashboard(session)  # type: ignore[arg-type]
