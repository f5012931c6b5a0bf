"""OpenTelemetry: a span and two metrics for each call, by the GenAI semantic conventions.

The names are those of https://opentelemetry.io/docs/specs/semconv/gen-ai/ (in development), with
``asteady.cache.outcome`` added.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from asteady._base.public import public
from asteady._base.requests import Completion, GenerateRequest
from asteady._base.validation import needs
from asteady._session.observe import Observed
from asteady._session.session import Session
from asteady.operate._resolve_session import session_now

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider
else:
    # opentelemetry is optional; annotations have to be resolvable without it.
    MeterProvider = TracerProvider = Any

# The bucket boundaries of the conventions.
_DURATION_BOUNDS_S = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
)
_TOKEN_BOUNDS = tuple(4**power for power in range(14))


@public
@contextmanager
def opentelemetry(
    session: Session | None = None,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> Iterator[None]:
    """Report every call of a session to OpenTelemetry, within a ``with`` block.

    A span is a child of the span that is current where the call is made. Prompts and answers are
    not recorded. Tokens are counted for computed answers, not for cached ones.

    Args:
        session: default: the running loop's default session.
        tracer_provider: default: the global one.
        meter_provider: default: the global one.

    Raises:
        SettingsError: opentelemetry-api is not installed (the extra ``otel``).
    """
    trace = needs("opentelemetry.trace", extra="otel")
    metrics = needs("opentelemetry.metrics", extra="otel")
    reporter = _Reporter(
        trace.get_tracer("asteady", tracer_provider=tracer_provider),
        metrics.get_meter("asteady", meter_provider=meter_provider),
    )
    with session_now(session).observe(reporter.report, everywhere=True):
        yield


class _Reporter:
    """An observer; it is called in the caller's context, so spans have the right parents."""

    def __init__(self, tracer: Any, meter: Any) -> None:
        self._tracer = tracer
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            unit="s",
            description="GenAI operation duration.",
            explicit_bucket_boundaries_advisory=_DURATION_BOUNDS_S,
        )
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=_TOKEN_BOUNDS,
        )

    def report(self, call: Observed) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode

        common = _common(call)
        end_ns = time.time_ns()
        # The conventions use INTERNAL for models in the same process.
        span = self._tracer.start_span(
            f"{common['gen_ai.operation.name']} {call.model}",
            kind=SpanKind.INTERNAL,
            start_time=end_ns - int(call.duration_s * 1e9),
            attributes={**common, **_of_request(call), **_of_answer(call)},
        )
        if call.error is not None:
            span.set_status(Status(StatusCode.ERROR, str(call.error)))
        span.end(end_time=end_ns)
        self._duration.record(call.duration_s, common)
        if call.outcome == "computed":
            for kind, tokens in _usage(call).items():
                self._tokens.record(tokens, {**common, "gen_ai.token.type": kind})


def _common(call: Observed) -> dict[str, Any]:
    if isinstance(call.request, GenerateRequest):
        operation = "text_completion" if call.request.raw else "chat"
    else:
        operation = "embeddings"
    attributes = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "asteady",
        "gen_ai.request.model": call.model,
        "asteady.cache.outcome": call.outcome,
    }
    if call.answer is not None:
        attributes["gen_ai.response.model"] = call.answer.model
    if call.error is not None:
        attributes["error.type"] = type(call.error).__qualname__
    return attributes


def _of_request(call: Observed) -> dict[str, Any]:
    attributes: dict[str, Any] = {} if call.key is None else {"asteady.key": call.key}
    request = call.request
    if isinstance(request, GenerateRequest):
        attributes |= {
            "gen_ai.request.seed": request.seed,
            "gen_ai.request.max_tokens": request.max_new_tokens,
            "gen_ai.request.temperature": request.temperature,
            "gen_ai.request.top_p": request.top_p,
            "gen_ai.request.top_k": request.top_k,
            "gen_ai.request.frequency_penalty": request.frequency_penalty,
            "gen_ai.request.presence_penalty": request.presence_penalty,
        }
        if request.stop:
            attributes["gen_ai.request.stop_sequences"] = request.stop
    return attributes


def _of_answer(call: Observed) -> dict[str, Any]:
    answer = call.answer
    if answer is None:
        return {}
    attributes: dict[str, Any] = {
        f"gen_ai.usage.{kind}_tokens": tokens for kind, tokens in _usage(call).items()
    }
    if isinstance(answer, Completion):
        attributes["gen_ai.response.finish_reasons"] = (answer.finish_reason,)
    else:
        attributes["gen_ai.embeddings.dimension.count"] = len(answer.vector)
    return attributes


def _usage(call: Observed) -> dict[str, int]:
    answer = call.answer
    if answer is None:
        return {}
    if isinstance(answer, Completion):
        return {"input": answer.prompt_tokens, "output": answer.completion_tokens}
    return {"input": answer.tokens}
