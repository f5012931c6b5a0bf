"""The dashboard for Grafana asks for metrics that there are."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from asteady import CacheMissError, Session
from asteady.operate import PrometheusCollector

pytestmark = pytest.mark.anyio

DASHBOARD: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "docs" / "grafana.json").read_text("utf-8")
)
_NAME = re.compile(r"\b(?:asteady|process)_\w+")
_SELECTED = re.compile(r'\b(cache|result|outcome)=~?"([^"]+)"')


async def test_each_metric_and_label_is_exported(session: Session) -> None:
    async with PrometheusCollector(session) as collector:
        await session.generate("hi")
        await session.embed("hi")
        with pytest.raises(CacheMissError):
            await session.generate("other", cache="only")
        text = await collector.text()
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    names = {sample.name for sample in samples}
    values = {value for sample in samples for value in sample.labels.values()}
    if sys.platform != "linux":
        names.add("process_resident_memory_bytes")  # told by prometheus-client on Linux only
    asked = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    asked += [json.dumps(variable["query"]) for variable in DASHBOARD["templating"]["list"]]
    assert len(asked) > 20
    for expression in asked:
        if expression != '"prometheus"':
            assert _NAME.search(expression), expression
        assert set(_NAME.findall(expression)) <= names, expression
        for _, selected in _SELECTED.findall(expression):
            assert set(selected.split("|")) <= values, expression


async def test_each_exported_metric_is_shown(session: Session) -> None:
    async with PrometheusCollector(session) as collector:
        exported = {family.name for family in collector.collect()}
    shown = " ".join(_NAME.findall(json.dumps(DASHBOARD)))
    assert not [name for name in exported if name not in shown]


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set[tuple[int, int]]()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
