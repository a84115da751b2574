"""A task's spans in its worker (docs/monitoring.md, "Traces"), where somebody wants them."""

import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cellwork import otel, tracing
from cellwork.usage import SUCCESS, TRAFFIC, Run
from cellwork_worker import metering, request
from cellwork_worker.job import Job

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

#: Characters of an error's text: what a body raised is a stranger's.
_TEXT_CHARS = 1000

#: Outcomes that are no errors.
_WELL = frozenset({SUCCESS, "retry", "ignored"}) | metering.ELSEWHERE

#: What the spans of a sandbox tell of its `Run`, as ``cellwork.<name>``.
_OF_START = ("sandbox", "executor", "image", "image_digest", "host", "start")
_OF_RUN = (*_OF_START, "outcome", "exit_status", "cpu_seconds", "peak_memory_bytes", "memory_bytes", *TRAFFIC)


@contextmanager
def processed(job: Job) -> Iterator[None]:
    """What is sent inside, a retry or what comes next in a canvas, continues the job's trace."""
    job.traceparent = tracing.traceparent(job.args[2])
    if (tracer := otel.tracer()) is None:
        yield
        return
    from opentelemetry import trace

    sent = tracing.extract(job.args[2])
    name, taken, attributes = job.args[0], _nanoseconds(job.taken), _described(job)
    if job.queue_seconds is not None:
        since = _nanoseconds(job.taken - job.queue_seconds)
        tracer.start_span(f"queue {name}", sent, attributes=attributes, start_time=since).end(taken)
    span = tracer.start_span(f"process {name}", sent, trace.SpanKind.CONSUMER, attributes, start_time=taken)
    with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        carrier: dict[str, str] = {}
        tracing.inject(carrier)
        job.traceparent = carrier.get("traceparent", job.traceparent)
        try:
            yield
        finally:
            if span.is_recording():
                _tell(tracer, span, job)


def _described(job: Job) -> dict[str, Any]:
    message, queue = job.args[2], (job.request.delivery_info or {}).get("routing_key")
    return {
        **tracing.described("process", "process", job.args[0], str(queue or "")),
        "messaging.message.id": job.id,
        "messaging.message.conversation_id": str(message.get("root_id") or job.id),
        "messaging.client.id": str(job.request.hostname),
        "cellwork.retries": int(message.get("retries") or 0),
    }


def _tell(tracer: "Tracer", span: "Span", job: Job) -> None:
    """How it went, and the steps of its sandboxes: from the figures of their bills, now that nobody waits."""
    for run in job.runs:
        _steps(tracer, run)
    told = {**request.begun(job, job.request.task), **request.over(job), "outcome": _outcome(job)}
    for name, value in told.items():
        span.set_attribute(f"cellwork.{name}", value)
    if (outcome := told["outcome"]) not in _WELL:
        error = job.given.exception() if job.given.done() else None
        # Unlike str() it does not raise, whatever the methods of a class of the task's do.
        text = outcome if error is None else "".join(traceback.format_exception_only(error)).strip()
        _failed(span, outcome, text)


def _outcome(job: Job) -> str:
    if job.ended is None:
        return job.failure or SUCCESS
    return str(job.ended) if job.ended in metering.ELSEWHERE else metering.ended(job)


def _steps(tracer: "Tracer", run: Run) -> None:
    from opentelemetry.trace import set_span_in_context

    if run.began is None:
        return
    began = _nanoseconds(run.began)
    step = tracer.start_span(f"start {run.task}", attributes=_told(run, _OF_START), start_time=began)
    if run.pull_seconds is not None:
        of_start, pulled = set_span_in_context(step), _nanoseconds(run.began + run.pull_seconds)
        tracer.start_span(f"pull {run.task}", of_start, attributes=_told(run, _OF_START), start_time=began).end(pulled)
    if run.start_seconds is not None:
        started = _nanoseconds(run.began + run.start_seconds)
        step.end(started)
        step = tracer.start_span(f"run {run.task}", attributes=_told(run, _OF_RUN), start_time=started)
    if run.outcome not in _WELL:
        _failed(step, run.outcome, run.outcome)
    step.end(_nanoseconds(run.ended))


def _told(run: Run, names: Iterable[str]) -> dict[str, Any]:
    return {f"cellwork.{name}": value for name in names if (value := getattr(run, name)) is not None}


def _failed(span: "Span", kind: str, text: str) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, text[:_TEXT_CHARS]))


def _nanoseconds(seconds: float) -> int:
    """Since the epoch, as OpenTelemetry counts."""
    return int(seconds * 1e9)
