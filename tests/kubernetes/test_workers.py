"""Workers and pods: who serves what, and what a worker that dies leaves to the next."""

import json
import os
import signal
import subprocess
import sys

import msgspec
import pytest
import redis
from celery.result import AsyncResult
from conftest import PROJECT
from podruns import launch
from waiting import wait_until

from cellwork_worker.executors.kubernetes import KubernetesExecutor
from cellwork_worker.launch import labels, worker_labels

TIMEOUT = 60


@pytest.fixture
def sent(shop, cluster):
    """Send a task to the queue of this module's workers."""
    return lambda task, *args, **options: task.apply_async(
        args, executor="kubernetes", image=cluster.image, queue="own-pods", **options
    )


def pods(cluster) -> list[str]:
    return [one.metadata.name for one in cluster.api.list_namespaced_pod(cluster.namespace).items]


def running(result: AsyncResult, cluster) -> None:
    wait_until(lambda: result.state == "STARTED" and pods(cluster), timeout=30, what="the pod to run")


def test_a_pod_outlives_its_worker_and_the_next_one_takes_its_outcome(shop, short_lived, sent, cluster):
    first = short_lived("pods-first")
    result = sent(shop.tasks.sleep, 8)
    running(result, cluster)
    (pod,) = cluster.api.list_namespaced_pod(cluster.namespace).items
    first.signal(signal.SIGKILL)
    first.wait()
    short_lived("pods-second")
    uids = set()

    def ready() -> bool:
        uids.update(one.metadata.uid for one in cluster.api.list_namespaced_pod(cluster.namespace).items)
        return result.ready()

    wait_until(ready, timeout=TIMEOUT, what="the result")
    assert result.get() == 8
    assert uids == {pod.metadata.uid}


def test_a_worker_that_leaves_hands_its_pods_over(shop, short_lived, sent, cluster):
    first = short_lived("pods-leaving", "-c", "1", CELLWORK_DRAIN_SECONDS="0.1")
    result = sent(shop.tasks.sleep, 8)
    running(result, cluster)
    first.signal(signal.SIGTERM)
    first.wait()
    assert pods(cluster) == [f"cellwork-{result.id}-0"]
    short_lived("pods-arriving")
    assert result.get(timeout=TIMEOUT) == 8


def test_a_frozen_worker_that_comes_back_stores_nothing(shop, short_lived, sent, cluster):
    frozen = short_lived("pods-frozen", "-c", "1")
    result = sent(shop.tasks.sleep, 12)
    running(result, cluster)
    os.killpg(frozen.process.pid, signal.SIGSTOP)
    short_lived("pods-awake")
    assert result.get(timeout=TIMEOUT) == 12
    os.killpg(frozen.process.pid, signal.SIGCONT)
    wait_until(lambda: "while this one did not answer" in frozen.text, timeout=30, what="it to see that")


def test_doctor_asks_the_cluster_for_each_verb_that_a_worker_needs(shop, cluster):
    command = [sys.executable, "-m", "cellwork", "doctor", "--json"]

    def row(**env: str) -> dict:
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env}, timeout=60)
        return {one["what"]: one for one in json.loads(done.stdout)}["kubernetes"]

    found = row(KUBECONFIG=str(cluster.kubeconfig), CELLWORK_KUBE_NAMESPACE=cluster.namespace)
    assert found["ok"], found["detail"]
    assert found["facts"]["namespace"] == cluster.namespace
    missing = row(KUBECONFIG="/nowhere")
    assert not missing["ok"]
    assert "Set KUBECONFIG" in missing["detail"]


def test_reap_ends_a_dead_workers_pod_and_a_dry_run_only_says_so(shop, broker, cluster, installation):
    one = launch("true", image=cluster.image, pull="missing")
    whose = worker_labels(installation, "dead@test", "", "")
    one = msgspec.structs.replace(one, keep=True, labels=labels(whose, "t", one.task_id, one.spec))
    dead = KubernetesExecutor(installation=installation, worker="dead@test", namespace=cluster.namespace)
    dead.run(one, lambda stream, data: False)
    meta = {"status": "SUCCESS", "result": None, "traceback": None, "children": [], "task_id": one.task_id}
    redis.Redis.from_url(f"{broker}/1").set(f"celery-task-meta-{one.task_id}", json.dumps(meta))
    env = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig), "CELLWORK_KUBE_NAMESPACE": cluster.namespace}

    def reap(*words: str) -> list[str]:
        command = [sys.executable, "-m", "cellwork", "reap", "-A", "shop.app", "--executor", "kubernetes", "--json"]
        done = subprocess.run([*command, *words], cwd=PROJECT, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return [entry["sandbox"] for entry in json.loads(done.stdout)]

    wait_until(lambda: reap("--dry-run") == [one.id], timeout=TIMEOUT, what="the pod to be old enough")
    assert one.id in pods(cluster)
    assert reap() == [one.id]
    wait_until(lambda: one.id not in pods(cluster), timeout=TIMEOUT, what="it to be gone")


def test_exec_into_a_pod_says_how_that_is_done(shop, sent, short_lived, cluster):
    short_lived("pods-entered")
    result = sent(shop.tasks.sleep, 3)
    running(result, cluster)
    command = [sys.executable, "-m", "cellwork", "exec", "-A", "shop.app", result.id, "--", "sh"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, timeout=60)
    assert done.returncode != 0
    assert f"kubectl exec -it cellwork-{result.id}-0 -- sh" in done.stderr
    assert result.get(timeout=TIMEOUT) == 3
