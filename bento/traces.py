"""Spans of decisions and their stages for an OpenTelemetry collector, where `FRAUD_TRACES_URL` is set.

What belongs here: spans. What does not: measuring, which the engine does for its `Meter` anyway. Nothing of a payment
is in a span but its decision's id, by which the inference log has the rest.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from bento.metrics import PrometheusMeter
from fraud_platform.inference_log.record import DecisionRecord
from fraud_platform.logs import request_id

TRACE_PARENT: ContextVar[bytes] = ContextVar("traceparent", default=b"")
"""The W3C traceparent of the request that is being answered; empty where its caller sent none."""

EXPORT_SECONDS = 2.0
"""How long a batch of spans is tried, also while the service ends."""


class Tracer:
    """Traces a share of decisions, and each whose caller traces it. Create once per worker process."""

    def __init__(self, url: str, share: float) -> None:
        # imported here: the exporter and its protocol are needed where traces are on
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        resource = Resource.create({"service.name": "fraud_detector"})
        self._provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(share)), resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(url, timeout=EXPORT_SECONDS)))
        self._tracer = self._provider.get_tracer("fraud_platform")
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """A request's span: a child of its caller's, if that sent one."""
        parent = self._propagator.extract({"traceparent": TRACE_PARENT.get().decode("latin-1")})
        with self._tracer.start_as_current_span(name, parent, trace.SpanKind.SERVER) as span:
            span.set_attribute("request_id", request_id())
            yield

    def stage(self, name: str, seconds: float) -> None:
        """A stage of the request's span, which ends now."""
        if trace.get_current_span().is_recording():
            end = time.time_ns()
            self._tracer.start_span(name, start_time=end - int(seconds * 1e9)).end(end)

    def close(self) -> None:
        """Send what waits."""
        self._provider.shutdown()


class TracedMeter(PrometheusMeter):
    """A meter whose stages are spans too."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def took(self, stage: str, seconds: float) -> None:
        """Measure a stage, and show it in the decision's trace."""
        super().took(stage, seconds)
        self._tracer.stage(stage, seconds)

    def decided(self, record: DecisionRecord, repeated: bool) -> None:
        """Count a decision, and say in its trace what it was."""
        super().decided(record, repeated)
        served = record.served_by
        trace.get_current_span().set_attributes(
            {
                "fraud.decision_id": record.decision_id,
                "fraud.decision": record.decision,
                "fraud.reason": record.reason,
                "fraud.model": served.model,
                "fraud.model_version": record.model_version,
                "fraud.user_features": served.user_features,
                "fraud.merchant_features": served.merchant_features,
                "fraud.degraded": record.degraded,
                "fraud.repeated": repeated,
            }
        )
