"""The metrics, as Prometheus reads them."""

from __future__ import annotations

import asyncio
import logging
import sys

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from asteady import CacheMissError, Session, SettingsError
from asteady.operate import PrometheusCollector, _prometheus

pytestmark = pytest.mark.anyio


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_the_text_has_counts_sizes_pools_and_durations(session: Session) -> None:
    registry = CollectorRegistry()
    async with PrometheusCollector(session, registry=registry) as collector:
        for _ in range(3):
            await session.generate("hi")
        await session.embed("hi")
        with pytest.raises(CacheMissError):
            await session.generate("other", cache="only")
        found = samples(await collector.text())
    assert found["asteady_cache_lookups_total", "generation", "hit"] == 2
    assert found["asteady_cache_lookups_total", "generation", "miss"] == 2
    assert found["asteady_cache_lookups_total", "embedding", "miss"] == 1
    assert found["asteady_cache_entries", "generation"] == 1
    assert found["asteady_cache_capacity_entries", "embedding"] == 512
    assert found["asteady_cache_size_bytes", "generation"] > 0
    assert found["asteady_cache_errors_total", "generation"] == 0
    assert found["asteady_cache_saved_seconds_total", "generation"] > 0
    assert found["asteady_pool_workers", "generation:builtin"] == 2
    assert found["asteady_call_duration_seconds_count", "generation", "memory"] == 2
    assert found["asteady_call_duration_seconds_count", "generation", "computed"] == 1
    assert found["asteady_call_duration_seconds_count", "generation", "failed"] == 1
    assert found["asteady_call_duration_seconds_count", "embedding", "computed"] == 1
    assert generate_latest(registry) == b""


async def test_a_scrape_in_another_thread_sees_the_current_sizes(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    registry = CollectorRegistry()
    async with PrometheusCollector(session, registry=registry):
        await session.generate("hi")
        on_the_loop = samples(generate_latest(registry).decode())
        in_a_thread = samples((await asyncio.to_thread(generate_latest, registry)).decode())
    assert on_the_loop["asteady_cache_entries", "generation"] == 0
    assert in_a_thread["asteady_cache_entries", "generation"] == 1
    # The loop's own thread did not wait for itself.
    assert not caplog.records


async def test_a_scrape_waits_for_a_bounded_time(
    session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    registry = CollectorRegistry()
    monkeypatch.setattr(_prometheus, "_SIZES_WAIT_S", 0.01)
    async with PrometheusCollector(session, registry=registry) as collector:
        monkeypatch.setattr(collector, "refresh", asyncio.Event().wait)
        with caplog.at_level(logging.WARNING, "asteady"):
            text = await asyncio.to_thread(generate_latest, registry)
    assert ("asteady_cache_entries", "generation") in samples(text.decode())
    assert "last known sizes" in caplog.text


async def test_collecting_before_it_is_entered_gives_no_caches(session: Session) -> None:
    collector = PrometheusCollector(session)
    families = await asyncio.to_thread(lambda: list(collector.collect()))
    assert all(not family.samples for family in families)
    assert collector.describe() == []


async def test_without_the_library_the_error_names_the_extra(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(SettingsError, match=r"asteady\[prometheus\]"):
        PrometheusCollector(session)
