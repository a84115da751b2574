"""A task's part of a trace: the span of its being sent, and the context that its message carries."""

import re
from collections.abc import Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, TypeVar

from . import otel

if TYPE_CHECKING:
    from opentelemetry.context import Context

R = TypeVar("R")

#: https://www.w3.org/TR/trace-context/, the version that there is. Not compiled here: every producer imports this.
_TRACEPARENT = r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"

#: Characters of a `tracestate` that every implementation must take.
_STATE_CHARS = 512


def publish(name: str, headers: MutableMapping[str, Any], queue: Callable[[], str], send: Callable[[], R]) -> R:
    """Send a task, in a span of its own where somebody wants spans.

    Args:
        name: the task's.
        headers: of its message; they get the span's context. Those of a retry have the context of the try before.
        queue: says where it goes; not called where nobody wants to know.
        send: does it, and returns Celery's result.
    """
    if (tracer := otel.tracer()) is None:
        return send()
    from opentelemetry.trace import SpanKind

    attributes = described("publish", "send", name, queue())
    with tracer.start_as_current_span(f"publish {name}", kind=SpanKind.PRODUCER, attributes=attributes) as span:
        for field in ("traceparent", "tracestate"):
            headers.pop(field, None)
        inject(headers)
        result = send()
        if (task_id := getattr(result, "id", None)) is not None:
            span.set_attribute("messaging.message.id", task_id)
        return result


def described(operation: str, kind: str, task: str, queue: str) -> dict[str, Any]:
    """Attributes of OpenTelemetry's conventions for messaging, as far as both sides know them."""
    return {
        "messaging.system": "celery",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": queue,
        "cellwork.task": task,
    }


def traceparent(headers: Mapping[str, Any]) -> str | None:
    """The context that a message carries. None: none that is one; whoever can send messages can say anything."""
    said = headers.get("traceparent")
    return said if isinstance(said, str) and re.fullmatch(_TRACEPARENT, said) else None


def inject(headers: MutableMapping[str, Any]) -> None:
    """Write the current context into `headers`."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    TraceContextTextMapPropagator().inject(headers)


def extract(headers: Mapping[str, Any]) -> "Context":
    """What `headers` say, for OpenTelemetry."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carried = {"traceparent": traceparent(headers) or ""}
    if isinstance(state := headers.get("tracestate"), str) and len(state) <= _STATE_CHARS:
        carried["tracestate"] = state
    return TraceContextTextMapPropagator().extract(carried, Context())
