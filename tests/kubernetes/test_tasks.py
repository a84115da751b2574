"""Tasks as pods, from the producer's call to its result, with a real worker process."""

import json
import os
import re

import pytest
from celery import chord, group
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded
from otlp import collecting, tree
from waiting import wait_until

import cellwork
from cellwork.broker import Broker
from cellwork.errors import CommandFailed, OutOfMemory, PayloadTooLarge, PolicyViolation, RemoteTaskError
from cellwork.usage import MEASURES, Run
from cellwork.usagestore import UsageStore

TIMEOUT = 60


@pytest.fixture
def tasks(shop):
    return shop.tasks


@pytest.fixture
def bills(shop):
    """The bills of a task's sandboxes, once there are so many."""
    broker = Broker(shop.app.app)

    def bills(task_id: str, count: int) -> list[Run]:
        def found() -> list[Run]:
            return [run for run in UsageStore(broker).runs() if run.task_id == task_id]

        wait_until(lambda: len(found()) >= count, what="its bill")
        return found()

    yield bills
    broker.close()


def test_a_value_comes_back_and_the_worker_says_that_it_runs_pods(tasks, send, pod_worker, cluster):
    result = send(tasks.add, 2, 3)
    assert result.get(timeout=TIMEOUT) == 5
    assert f"cellwork-{result.id}-0 goes to kubernetes: executor='kubernetes' in the call" in pod_worker.text
    assert "executor kubernetes: Kubernetes v" in pod_worker.text
    stats = pod_worker.inspect("stats")["pool"]
    assert stats["executor"] == "kubernetes"


def test_it_runs_hardened_in_the_pod_and_not_on_the_worker(tasks, send):
    found = send(tasks.where, memory="96m").get(timeout=TIMEOUT)
    assert found["uid"] == 65534
    assert int(found["memory"]) == 96 << 20


def test_an_exception_comes_back_with_the_traceback_of_the_pod(tasks, send):
    result = send(tasks.fail_builtin, "here")
    with pytest.raises(ValueError, match="here") as caught:
        result.get(timeout=TIMEOUT)
    assert type(caught.value) is ValueError
    assert 'File "/tmp/cellwork-' in result.traceback
    with pytest.raises(RemoteTaskError):
        send(tasks.fail_unknown).get(timeout=TIMEOUT)


def test_retries_are_the_tasks_own_and_each_is_a_pod_of_its_own(tasks, send):
    assert send(tasks.retried_by_rule, 2).get(timeout=TIMEOUT) == 2
    assert send(tasks.retried_by_self, 1).get(timeout=TIMEOUT) == 1


def test_groups_and_chords_of_pods(tasks, send, cluster):
    options = {"executor": "kubernetes", "image": cluster.image}
    members = group(tasks.echo.s(n).set(**options) for n in range(3))
    assert chord(members, tasks.total.s().set(**options)).apply_async().get(timeout=TIMEOUT) == 3


def test_progress_from_inside_is_seen_while_the_pod_runs(tasks, send):
    result = send(tasks.progress)
    wait_until(lambda: result.state == "PROGRESS", timeout=30, what="progress")
    assert result.info == {"done": 1, "of": 2}
    assert result.get(timeout=TIMEOUT) == "done"


def test_output_streams_while_the_pod_runs_and_is_kept(tasks, send, shop):
    waits = send(shop.talk.says_and_waits, 3)
    wait_until(
        lambda: waits.state == "STARTED" and list(cellwork.logs(waits.id, app=shop.app.app)), timeout=30, what="output"
    )
    assert not waits.ready()
    result = send(tasks.prints)
    assert result.get(timeout=TIMEOUT) == "printed"
    lines = [line.text for line in cellwork.logs(result.id, app=shop.app.app)]
    # A pod's log is one: what was printed to which stream came first is not kept.
    assert {"on stdout", "on stderr"} <= set(lines)
    waits.get(timeout=TIMEOUT)


def test_the_longest_result_survives_after_100_megabytes_of_output(shop, send):
    # 8 MiB of JSON, two of which are quotes. In long lines: each is a frame of the emulated node's engine.
    returned = (8 << 20) - 2
    found = send(shop.talk.prints_and_returns, 100_000_000, returned, 10_000).get(timeout=110)
    assert found == "x" * returned


def test_a_pod_that_is_lost_takes_nothing_of_the_tasks_own_retries(tasks, send, cluster, bills):
    result = send(tasks.sleep, 3)
    wait_until(lambda: result.state == "STARTED" and cluster.left(), timeout=30, what="the pod")
    cluster.api.delete_namespaced_pod(f"cellwork-{result.id}-0", cluster.namespace, grace_period_seconds=0)
    assert result.get(timeout=TIMEOUT) == 3
    runs = bills(result.id, 2)
    assert [(run.sandbox, run.retries, run.outcome) for run in runs] == [
        (f"cellwork-{result.id}-0", 0, "sandbox-lost"),
        (f"cellwork-{result.id}-0-1", 0, "success"),
    ]


def test_its_bill_has_what_a_containers_has(tasks, send, bills, cluster):
    result = send(tasks.busy, 0.3, 40 << 20, memory="128m")
    result.get(timeout=TIMEOUT)
    (run,) = bills(result.id, 1)
    assert (run.executor, run.outcome, run.queue, run.start) == ("kubernetes", "success", "kubernetes", "cold")
    assert (run.image, run.reason) == (cluster.image, "executor='kubernetes' in the call")
    assert "sha256:" in run.image_digest
    assert run.host == "emulated" or cluster.server is None
    assert 0.2 < run.cpu_seconds < 30
    assert 40 << 20 < run.peak_memory_bytes <= 128 << 20
    assert run.run_seconds > 0.25
    assert run.start_seconds > 0
    assert run.queue_seconds >= 0
    assert run.network_sent_bytes is not None
    told = result.backend.get_task_meta(result.id)["cellwork"]
    assert {name: told.get(name) for name in ("host", *MEASURES)} == {n: getattr(run, n) for n in ("host", *MEASURES)}


def test_a_payload_that_no_secret_takes_is_refused_with_its_size(tasks, send):
    with pytest.raises(PayloadTooLarge, match=r"a pod gets them in a Secret, which takes 1048576"):
        send(tasks.echo, os.urandom(2_000_000).hex()).get(timeout=TIMEOUT)


def test_a_soft_limit_is_raised_in_the_pod_and_a_hard_one_ends_it(tasks, send, cluster):
    assert send(tasks.notices_soft_limit, 60, soft_time_limit=1).get(timeout=TIMEOUT)
    with pytest.raises(TimeLimitExceeded):
        send(tasks.sleep, 300, time_limit=1).get(timeout=TIMEOUT)
    wait_until(lambda: cluster.left() == [], timeout=30, what="the pod to be gone")


def test_revoke_terminate_deletes_the_running_pod(tasks, send, cluster):
    result = send(tasks.sleep, 300)
    wait_until(lambda: result.state == "STARTED" and cluster.left(), timeout=30, what="the pod")
    result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=TIMEOUT)
    wait_until(lambda: cluster.left() == [], timeout=30, what="the pod to be gone")


def test_a_command_runs_in_an_image_without_python(shop, send):
    result = shop.commands.checksum.apply_async(("text",), executor="kubernetes")
    assert re.fullmatch(r"[0-9a-f]{64}", result.get(timeout=TIMEOUT).strip())
    with pytest.raises(CommandFailed, match="ended with status 3") as caught:
        shop.commands.status.apply_async((3,), executor="kubernetes").get(timeout=TIMEOUT)
    assert "to stderr" in str(caught.value)
    with pytest.raises(SoftTimeLimitExceeded):
        shop.commands.wait.apply_async((300,), executor="kubernetes", soft_time_limit=1).get(timeout=TIMEOUT)


def test_a_short_commands_bill_is_what_its_shell_reads(shop, send, bills):
    """Before metrics-server could have sampled it, and although it fails."""
    script = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; dd if=/dev/zero of=/tmp/held bs=1M count=20; exit 3"
    result = shop.commands.script.apply_async((script,), executor="kubernetes", memory="64m")
    with pytest.raises(CommandFailed, match="ended with status 3"):
        result.get(timeout=TIMEOUT)
    (run,) = bills(result.id, 1)
    assert 0.02 < run.cpu_seconds < 30
    assert 20 << 20 < run.peak_memory_bytes <= 64 << 20


def test_memory_is_a_limit_and_more_is_given_where_the_task_allows_it(shop, send):
    with pytest.raises(OutOfMemory, match="64 MiB"):
        send(shop.hostile.eats_memory, memory="64m").get(timeout=TIMEOUT)
    assert send(shop.hostile.needs_memory, 120, memory="96m", memory_max="512m").get(timeout=TIMEOUT) == [120, 0]


def test_what_the_policy_does_not_give_is_refused_before_a_pod_is_made(tasks, send):
    for option in ({"namespace": "kube-system"}, {"service_account": "admin"}, {"pod_template": {"spec": {}}}):
        with pytest.raises(PolicyViolation, match=next(iter(option))):
            send(tasks.echo, 1, **option).get(timeout=TIMEOUT)


def test_the_pod_says_whose_it_is_and_carries_no_secret(tasks, send, cluster):
    result = send(tasks.sleep, 3)
    pods = wait_until(
        lambda: cluster.api.list_namespaced_pod(cluster.namespace).items if result.state == "STARTED" else None,
        timeout=30,
        what="the pod",
    )
    (pod,) = pods
    assert pod.metadata.name == f"cellwork-{result.id}-0"
    assert pod.metadata.annotations["cellwork.task"] == "shop.tasks.sleep"
    assert pod.metadata.annotations["cellwork.task-id"] == result.id
    assert pod.metadata.labels["cellwork.network"] == "none"
    assert pod.metadata.labels["cellwork.attempt"] == "0"
    assert pod.metadata.annotations["cellwork.worker"] == "pods@test"
    assert pod.metadata.annotations["cellwork.route"] == "executor='kubernetes' in the call"
    assert "redis://" not in json.dumps(pod.to_dict(), default=str)
    result.get(timeout=TIMEOUT)


def test_a_pods_steps_are_spans_of_the_trace_that_its_message_names(shop, short_lived, cluster):
    sent = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    with collecting() as collector:
        worker = short_lived("traced-pods", **collector.env)
        result = shop.attacks.environment.apply_async(queue="own-pods", image=cluster.image, headers=sent)
        environment = result.get(timeout=TIMEOUT)
        spans = collector.trace_of(result.id, 4)
        worker.stop()
    what = "shop.attacks.environment"
    assert tree(spans, "b" * 16) == [f"queue {what}", f"process {what}", f"  start {what}", f"  run {what}"]
    process, run = spans[1], spans[-1]
    assert environment["TRACEPARENT"].split("-")[1:3] == ["a" * 32, process.id]
    assert run.attributes["cellwork.executor"] == "kubernetes"
    assert run.attributes["cellwork.host"]
