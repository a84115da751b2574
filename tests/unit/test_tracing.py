"""Spans of what is sent and of what a worker makes of it; no trace of OpenTelemetry where nobody asks for it."""

import json
import os
import subprocess
import sys
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cellwork import configure, tracing
from cellwork.usage import Run
from cellwork_worker.job import Callbacks, Ended, Job
from cellwork_worker.tracing import processed

SENT = f"00-{'a' * 32}-{'b' * 16}-01"

PROGRAM = """\
import sys
from celery import Celery
from cellwork import configure, otel
app = configure(Celery("x", broker="memory://", backend="cache+memory://", set_as_current=False))
imported = [module for module in sys.modules if module.startswith("opentelemetry")]
# The client of Redis imports parts of it by itself.
app.send_task("shop.parse")
print(imported, otel.tracer() is not None)
"""


@pytest.fixture
def spans(monkeypatch) -> InMemorySpanExporter:
    """Those of a provider that is the application's. OpenTelemetry itself lets that be set once only."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return exporter


@pytest.fixture
def app() -> Celery:
    return configure(Celery("unit", broker="memory://", backend="cache+memory://", set_as_current=False))


def sent(app: Celery, **options: Any) -> dict[str, Any]:
    """The headers of the message."""
    app.send_task("shop.parse", queue="traced", **options)
    with app.connection_for_read() as connection:
        message = connection.SimpleQueue("traced").get(timeout=1)
        message.ack()
        return dict(message.headers)


def job(run: Run | None = None, **message: Any) -> Job:
    request = SimpleNamespace(
        accept=None, hostname="w@x", delivery_info={"routing_key": "traced"}, task=SimpleNamespace()
    )
    callbacks: Any = Callbacks(*[request.accept] * 4)
    made = Job("i", "cellwork-i-0", lambda: None, ("shop.parse", "i", message), callbacks, request=request)
    made.taken, made.queue_seconds, made.runs = 100.0, 7.0, [] if run is None else [run]
    return made


def run(**fields: Any) -> Run:
    known = {"task": "shop.parse", "task_id": "i", "sandbox": "cellwork-i-0", "executor": "docker", "worker": "w@x"}
    return Run(
        **{**known, "host": "x", "queue": "traced", "outcome": "success", "began": 101.0, "ended": 110.0, **fields}
    )


def seconds(span: Any) -> tuple[float, float]:
    return span.start_time / 1e9, span.end_time / 1e9


def python(**env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    command = [sys.executable, "-c", PROGRAM]
    return subprocess.run(command, env={**clean, **env}, capture_output=True, text=True, check=True, timeout=60)


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"},
    ],
)
def test_where_nobody_asks_there_is_no_tracer_and_no_import(env):
    assert python(**env).stdout == "[] False\n"


def test_the_environment_alone_makes_spans_and_they_are_flushed_at_the_end():
    printed = python(OTEL_TRACES_EXPORTER="console", OTEL_SERVICE_NAME="kiosk").stdout
    span = json.loads(printed.partition("\n")[2])
    assert span["name"] == "publish shop.parse"
    assert span["resource"]["attributes"]["service.name"] == "kiosk"


def test_an_exporter_that_is_not_installed_is_said_and_the_task_is_sent_all_the_same():
    ran = python(OTEL_TRACES_EXPORTER="carrier-pigeon")
    assert "no installed package has an exporter of the name carrier-pigeon; pip install 'cellwork[otel]'" in ran.stderr


def test_a_message_carries_the_context_of_its_span(app, spans):
    with trace.get_tracer("mine").start_as_current_span("a request"):
        headers = sent(app, task_id="an-id")
    span, request = spans.get_finished_spans()
    assert headers["traceparent"] == f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-03"
    assert span.parent.span_id == request.context.span_id
    assert (span.name, span.kind) == ("publish shop.parse", trace.SpanKind.PRODUCER)
    assert span.attributes["messaging.message.id"] == "an-id"
    assert span.attributes["messaging.destination.name"] == "traced"


def test_celerys_own_instrumentation_goes_between_and_the_trace_is_one(app, spans):
    instrumentor = CeleryInstrumentor()
    instrumentor.instrument(tracer_provider=trace.get_tracer_provider())
    try:
        # It may leave its span the current one.
        headers = copy_context().run(sent, app)
    finally:
        instrumentor.uninstrument()
    theirs, ours = spans.get_finished_spans()
    assert theirs.parent.span_id == ours.context.span_id
    assert headers["traceparent"] == f"00-{ours.context.trace_id:032x}-{theirs.context.span_id:016x}-03"


def test_the_context_of_an_earlier_try_is_replaced_whole(app, spans):
    headers = sent(app, headers={"traceparent": SENT, "tracestate": "vendor=old", "other": "stays"})
    assert headers["traceparent"] != SENT
    assert "tracestate" not in headers
    assert headers["other"] == "stays"


def test_without_spans_the_context_of_an_earlier_try_stays(app):
    assert sent(app, headers={"traceparent": SENT})["traceparent"] == SENT


@pytest.mark.parametrize(
    "said",
    [
        None,
        7,
        "",
        "$(reboot)",
        SENT + "\n",
        SENT.upper(),
        "ff" + SENT[2:],
        SENT.replace("a", "0"),
        SENT.replace("b", "0"),
    ],
)
def test_what_is_no_context_is_none(said):
    assert tracing.traceparent({"traceparent": said}) is None


def test_the_steps_of_a_task_are_spans_with_the_times_of_its_bill(spans):
    one = job(
        run(start="cold", start_seconds=5.0, pull_seconds=3.0, run_seconds=4.0, exit_status=0, peak_memory_bytes=9),
        traceparent=SENT,
        tracestate="vendor=kept",
        root_id="the-root",
    )
    with processed(one):
        assert one.traceparent is not None
    found = {span.name.partition(" ")[0]: span for span in spans.get_finished_spans()}
    assert {name: seconds(span) for name, span in found.items() if name != "process"} == {
        "queue": (93.0, 100.0), "start": (101.0, 106.0), "pull": (101.0, 104.0), "run": (106.0, 110.0),
    }  # fmt: skip
    assert found["process"].start_time == 100 * 10**9
    parents = {name: f"{span.parent.span_id:016x}" for name, span in found.items()}
    ids = {name: f"{span.context.span_id:016x}" for name, span in found.items()}
    assert parents == {
        "queue": "b" * 16, "process": "b" * 16, "start": ids["process"], "pull": ids["start"], "run": ids["process"],
    }  # fmt: skip
    assert {f"{span.context.trace_id:032x}" for span in found.values()} == {"a" * 32}
    assert one.traceparent.split("-")[1:3] == ["a" * 32, ids["process"]]
    assert found["process"].context.trace_state.get("vendor") == "kept"
    assert found["process"].attributes["messaging.message.conversation_id"] == "the-root"
    assert found["run"].attributes["cellwork.peak_memory_bytes"] == 9
    assert not any(span.status.status_code is trace.StatusCode.ERROR for span in found.values())


def test_a_sandbox_that_never_ran_fails_in_its_start(spans):
    one = job(run(outcome="start-timeout"))
    one.failure = "start-timeout"
    with processed(one):
        pass
    names = {span.name.partition(" ")[0]: span for span in spans.get_finished_spans()}
    assert sorted(names) == ["process", "queue", "start"]
    assert seconds(names["start"]) == (101.0, 110.0)
    assert names["start"].attributes["error.type"] == "start-timeout"


def test_an_error_whose_text_cannot_be_had_and_one_that_is_endless_harm_nothing(spans):
    class Bad(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    for error in (Bad(), ValueError("x" * 100_000)):
        one = job()
        one.failure = "task-error"
        one.given.set_exception(error)
        with processed(one):
            pass
    bad, endless = (span.status for span in spans.get_finished_spans() if span.name.startswith("process"))
    assert bad.description.endswith("Bad: <exception str() failed>")
    assert endless.description == f"ValueError: {'x' * 988}"


@pytest.mark.parametrize(("ended", "outcome", "fails"), [(15, "revoked", True), ("handed over", "handed over", False)])
def test_what_is_ended_from_outside_says_so(spans, ended, outcome, fails):
    one = job()
    one.ended = ended
    with pytest.raises(Ended), processed(one):
        raise Ended
    _, process = spans.get_finished_spans()
    assert process.attributes["cellwork.outcome"] == outcome
    assert (process.status.status_code is trace.StatusCode.ERROR) == fails


def test_a_trace_that_is_not_sampled_goes_on_as_one(spans):
    one = job(run(start_seconds=1.0, run_seconds=1.0), traceparent=SENT[:-1] + "0")
    with processed(one):
        assert one.traceparent is not None
        assert one.traceparent.endswith("-00")
    assert spans.get_finished_spans() == ()
