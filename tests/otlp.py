"""A collector of traces: takes OTLP over HTTP, as OpenTelemetry's exporters send it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from httpserver import answering
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from waiting import wait_until


@dataclass(frozen=True)
class Span:
    name: str
    trace: str
    id: str
    parent: str
    begins: int
    ends: int
    failed: bool
    status: str
    attributes: dict[str, Any]


class Collector:
    def __init__(self, port: int) -> None:
        self._lock = threading.Lock()
        self._spans: list[Span] = []
        #: For a process whose spans are to come here; they come soon.
        self.env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_BSP_SCHEDULE_DELAY": "100"}

    def take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        found = [_span(one) for of in request.resource_spans for scope in of.scope_spans for one in scope.spans]
        with self._lock:
            self._spans += found

    def trace_of(self, task_id: str, count: int) -> list[Span]:
        """All spans of the trace that a task is part of, by when they began; there are to be so many."""

        def arrived() -> list[Span]:
            with self._lock:
                ours = {span.trace for span in self._spans if span.attributes.get("messaging.message.id") == task_id}
                spans = [span for span in self._spans if span.trace in ours]
            return spans if len(spans) >= count else []

        spans = wait_until(arrived, timeout=30, what=f"the {count} spans of {task_id}")
        assert len({span.trace for span in spans}) == 1, "one trace"
        assert len(spans) == count, [span.name for span in spans]
        return sorted(spans, key=lambda span: (span.begins, -span.ends))


def _span(told: Any) -> Span:
    values = {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in told.attributes}
    return Span(
        told.name,
        told.trace_id.hex(),
        told.span_id.hex(),
        told.parent_span_id.hex(),
        told.start_time_unix_nano,
        told.end_time_unix_nano,
        told.status.code == told.status.STATUS_CODE_ERROR,
        told.status.message,
        values,
    )


def tree(spans: list[Span], root: str = "") -> list[str]:
    """Their names, each below its parent and indented by two; `root` is the parent of the first."""

    def below(parent: str, depth: int) -> list[str]:
        return [
            line
            for span in spans
            if span.parent == parent
            for line in ("  " * depth + span.name, *below(span.id, depth + 1))
        ]

    return below(root, 0)


@contextmanager
def collecting() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with answering(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        collector = Collector(server.server_address[1])
        yield collector
