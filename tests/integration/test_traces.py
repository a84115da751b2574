"""One trace from the producer through queue, start and run, as a collector gets it."""

import json
import os
import subprocess
import sys

import pytest
from conftest import PROJECT
from otlp import collecting, tree

#: Its own process, which knows of OpenTelemetry what its environment says.
PRODUCER = """\
import json
from celery import chain
from shop import attacks, commands, tasks

signatures = {
    "added": tasks.add.s(2, 3),
    "chained": chain(tasks.add.s(1, 2), tasks.add.s(4).set(queue="traced")),
    "retried by rule": tasks.retried_by_rule.s(1),
    "retried by itself": tasks.retried_by_self.s(1),
    "failed": tasks.fail_builtin.s("<no>"),
    "killed": tasks.sleep.s(60).set(time_limit=0.5),
    "environment": attacks.environment.s(),
    "its own": attacks.environment.s().set(env={"TRACEPARENT": "mine"}),
    "command": commands.script.s("echo $TRACEPARENT"),
    "inline": tasks.inline.s(),
}
results = {name: signature.set(queue="traced").apply_async() for name, signature in signatures.items()}
for result in results.values():
    result.get(timeout=60, propagate=False)
print(json.dumps({name: [result.id, str(result.result), result.parent and result.parent.id]
                  for name, result in results.items()}))
"""


@pytest.fixture(scope="module")
def collector():
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def sent(collector, start_worker):
    """What the producer tells of its tasks: id, result, and the id of the one before."""
    worker = start_worker("-c", "2", "-Q", "traced", name="traced", **collector.env)
    ran = subprocess.run(
        [sys.executable, "-c", PRODUCER],
        cwd=PROJECT,
        env={**os.environ, **collector.env},
        capture_output=True,
        text=True,
        timeout=100,
    )
    worker.stop()
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def one(task: str, *after: str) -> list[str]:
    """The spans of a task, and below what it sent."""
    steps = [f"start {task}", f"run {task}", *after]
    return [f"publish {task}", f"  queue {task}", f"  process {task}", *(f"    {line}" for line in steps)]


def steps(spans) -> dict:
    """Those of one task, by what they are of."""
    return {span.name.partition(" ")[0]: span for span in spans}


def test_one_trace_goes_from_the_producer_through_queue_start_and_run(sent, collector):
    task_id, value, _ = sent["added"]
    spans = collector.trace_of(task_id, 5)
    assert tree(spans) == one("shop.tasks.add")
    assert value == "5"
    publish, queue, process, start, run = map(steps(spans).get, ("publish", "queue", "process", "start", "run"))
    assert abs(queue.begins - publish.begins) < 1e9
    assert queue.begins <= queue.ends == process.begins
    assert process.begins <= start.begins <= start.ends == run.begins <= run.ends <= process.ends
    for span in (publish, queue, process):
        assert span.attributes["messaging.system"] == "celery"
        assert span.attributes["messaging.destination.name"] == "traced"
        assert span.attributes["messaging.message.id"] == task_id
    told = process.attributes
    assert (told["cellwork.executor"], told["cellwork.outcome"], told["cellwork.retries"]) == ("docker", "success", 0)
    assert (told["cellwork.route"], told["messaging.client.id"]) == ("docker", "traced@test")
    assert told["cellwork.reason"]
    assert run.attributes["cellwork.sandbox"] == start.attributes["cellwork.sandbox"] == f"cellwork-{task_id}-0"
    assert run.attributes["cellwork.image"] == "cellwork/python:base"
    assert run.attributes["cellwork.cpu_seconds"] > 0
    assert not any(span.failed for span in spans)


def test_the_next_task_of_a_chain_is_below_the_one_that_sent_it(sent, collector):
    last, value, first = sent["chained"]
    assert value == "7"
    spans = collector.trace_of(first, 10)
    assert tree(spans) == one("shop.tasks.add", *one("shop.tasks.add"))
    assert collector.trace_of(last, 10) == spans


@pytest.mark.parametrize(
    ("name", "task"), [("retried by rule", "retried_by_rule"), ("retried by itself", "retried_by_self")]
)
def test_a_retry_is_below_the_try_that_asked_for_it(sent, collector, name, task):
    task_id, value, _ = sent[name]
    assert value == "1"
    spans = collector.trace_of(task_id, 10)
    assert tree(spans) == one(f"shop.tasks.{task}", *one(f"shop.tasks.{task}"))
    tries = [span for span in spans if span.name.startswith("process")]
    assert [span.attributes["cellwork.retries"] for span in tries] == [0, 1]
    assert {span.attributes["messaging.message.id"] for span in tries} == {task_id}
    assert [span.failed for span in tries] == [name == "retried by rule", False]


def test_a_failure_is_an_error_of_the_span_with_its_text(sent, collector):
    failed = steps(collector.trace_of(sent["failed"][0], 5))
    assert {name for name, span in failed.items() if span.failed} == {"process", "run"}
    told = failed["process"]
    assert told.status == "ValueError: ('<no>', 42)"
    assert told.attributes["error.type"] == told.attributes["cellwork.outcome"] == "task-error"
    killed = steps(collector.trace_of(sent["killed"][0], 5))
    assert killed["process"].attributes["error.type"] == killed["run"].attributes["error.type"] == "time-limit"
    assert 0.4e9 <= killed["run"].ends - killed["run"].begins < 10e9


def test_a_sandbox_knows_its_trace_and_what_the_task_says_itself_wins(sent, collector):
    for name in ("environment", "command"):
        task_id, printed, _ = sent[name]
        process = steps(collector.trace_of(task_id, 5))["process"]
        assert f"00-{process.trace}-{process.id}-0" in printed
    assert "'TRACEPARENT': 'mine'" in sent["its own"][1]


def test_an_inline_task_has_no_steps(sent, collector):
    spans = collector.trace_of(sent["inline"][0], 3)
    assert tree(spans) == one("shop.tasks.inline")[:3]
    assert steps(spans)["process"].attributes["cellwork.executor"] == "inline"


def test_a_worker_without_opentelemetry_hands_on_what_the_message_says(shop, shared_worker):
    traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
    for said, given in ((traceparent, traceparent), ("$(reboot)", None)):
        result = shop.attacks.environment.apply_async(headers={"traceparent": said})
        assert result.get(timeout=60).get("TRACEPARENT") == given
