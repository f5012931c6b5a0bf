"""Spans and metrics, as OpenTelemetry's SDK gets them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as names
from opentelemetry.trace import SpanKind, StatusCode

from asteady import CacheMissError, Session, SettingsError
from asteady.operate import opentelemetry

pytestmark = pytest.mark.anyio


class Backend:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self.reader])

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def points(self, metric: str) -> list[tuple[Mapping[str, Any], Any]]:
        data = self.reader.get_metrics_data()
        assert data is not None
        return [
            (point.attributes or {}, point)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for found in scope.metrics
            if found.name == metric
            for point in found.data.data_points
        ]


@pytest.fixture
def backend() -> Backend:
    return Backend()


async def test_a_call_is_a_span_with_the_conventions_attributes(
    session: Session, backend: Backend
) -> None:
    tracer = backend.tracer_provider.get_tracer("test")
    with opentelemetry(session, tracer_provider=backend.tracer_provider):
        with tracer.start_as_current_span("request") as parent:
            await session.generate("hi there", seed=7, max_new_tokens=9, stop="x")
        await session.generate("hi there", raw=True)
    span, _, raw = backend.spans
    assert span.name == "chat builtin"
    assert raw.name == "text_completion builtin"
    assert span.kind is SpanKind.INTERNAL
    assert span.parent is not None
    assert span.parent.span_id == parent.get_span_context().span_id
    assert raw.parent is None
    attributes = dict(span.attributes or {})
    assert len(str(attributes.pop("asteady.key"))) == 64
    assert attributes == {
        names.GEN_AI_OPERATION_NAME: "chat",
        names.GEN_AI_PROVIDER_NAME: "asteady",
        names.GEN_AI_REQUEST_MODEL: "builtin",
        names.GEN_AI_RESPONSE_MODEL: "fake",
        names.GEN_AI_REQUEST_SEED: 7,
        names.GEN_AI_REQUEST_MAX_TOKENS: 9,
        names.GEN_AI_REQUEST_TEMPERATURE: 0.0,
        names.GEN_AI_REQUEST_TOP_P: 1.0,
        names.GEN_AI_REQUEST_TOP_K: 0,
        names.GEN_AI_REQUEST_FREQUENCY_PENALTY: 0.0,
        names.GEN_AI_REQUEST_PRESENCE_PENALTY: 0.0,
        names.GEN_AI_REQUEST_STOP_SEQUENCES: ("x",),
        names.GEN_AI_USAGE_INPUT_TOKENS: 2,
        names.GEN_AI_USAGE_OUTPUT_TOKENS: 4,
        names.GEN_AI_RESPONSE_FINISH_REASONS: ("stop",),
        "asteady.cache.outcome": "computed",
    }
    assert span.start_time is not None
    assert span.end_time is not None
    assert 0 < span.end_time - span.start_time < 60e9


async def test_an_embedding_is_a_span_too(session: Session, backend: Backend) -> None:
    with opentelemetry(session, tracer_provider=backend.tracer_provider):
        await session.embed("one two three")
    attributes = backend.spans[0].attributes or {}
    assert backend.spans[0].name == "embeddings builtin"
    assert attributes[names.GEN_AI_USAGE_INPUT_TOKENS] == 3
    assert attributes[names.GEN_AI_EMBEDDINGS_DIMENSION_COUNT] == 8


async def test_a_failure_is_an_error(session: Session, backend: Backend) -> None:
    with (
        opentelemetry(session, tracer_provider=backend.tracer_provider),
        pytest.raises(CacheMissError),
    ):
        await session.generate("hi", cache="only")
    span = backend.spans[0]
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "CacheMissError"
    assert (span.attributes or {})["asteady.cache.outcome"] == "failed"


async def test_durations_and_tokens_are_measured(session: Session, backend: Backend) -> None:
    with opentelemetry(session, meter_provider=backend.meter_provider):
        for _ in range(3):
            await session.generate("hi there")
    await session.generate("no longer seen")
    durations = {
        attributes["asteady.cache.outcome"]: point.count
        for attributes, point in backend.points("gen_ai.client.operation.duration")
    }
    assert durations == {"computed": 1, "memory": 2}
    tokens = {
        attributes[names.GEN_AI_TOKEN_TYPE]: point.sum
        for attributes, point in backend.points("gen_ai.client.token.usage")
    }
    assert tokens == {"input": 2, "output": 4}


async def test_without_the_library_the_error_names_the_extra(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    with pytest.raises(SettingsError, match=r"asteady\[otel\]"), opentelemetry(session):
        pass
