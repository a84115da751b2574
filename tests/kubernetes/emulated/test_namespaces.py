"""Pods outside of the worker's own namespace, and who comes to know of them."""

import json

import msgspec
import pytest
import redis
from emulator.cluster import write_kubeconfig
from podruns import INSTALLATION, Running, launch
from redis.backoff import NoBackoff
from redis.retry import Retry
from waiting import wait_until

from cellwork.broker import Broker
from cellwork_worker.executors.base import Abandoned
from cellwork_worker.executors.kubernetes import KubernetesExecutor
from cellwork_worker.launch import labels, worker_labels
from cellwork_worker.namespaces import Namespaces
from cellwork_worker.reaper import reap


@pytest.fixture
def kubeconfig(server, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path, server.url)))


@pytest.fixture
def namespaces(shop):
    """As a worker remembers them."""
    broker = Broker(shop.app.app)
    yield Namespaces(broker)
    broker.client.delete(broker.key("namespaces"))
    broker.close()


@pytest.fixture
def left(installation, namespaces, kubeconfig):
    """What a worker has left in another namespace than its own, before it died; it had stored the outcome."""
    whose = worker_labels(installation, "dead@test", "", "")
    one = launch("echo last words", namespace="team-a")
    one = msgspec.structs.replace(one, keep=True, labels=labels(whose, "t", one.task_id, one.spec))
    KubernetesExecutor(installation=installation, worker="dead@test", names=namespaces).run(one, lambda *_: False)
    return one


def names(server) -> set[str]:
    return {pod["metadata"]["name"] for pod in server.store.listed("pods", "team-a")[0]}


def test_a_dead_workers_pod_in_a_namespace_of_its_own_is_reaped_by_one_that_never_used_it(shop, left, broker, server):
    outcome = {"status": "SUCCESS", "result": None, "traceback": None, "children": [], "task_id": left.task_id}
    redis.Redis.from_url(f"{broker}/1").set(f"celery-task-meta-{left.task_id}", json.dumps(outcome))
    assert names(server) == {left.id}

    def reaped() -> list[str]:
        return [sandbox for sandbox, _ in reap(shop.app.app, executor="kubernetes", dry_run=False)]

    wait_until(lambda: reaped() == [left.id], timeout=60, what="the pod to be old enough")
    wait_until(lambda: left.id not in names(server), timeout=60, what="it to be gone")


def test_a_worker_that_starts_again_ends_what_it_left_in_other_namespaces(installation, left, namespaces, server):
    again = KubernetesExecutor(installation=installation, worker="dead@test", names=namespaces)
    assert again.sweep(frozenset()) == [left.id]
    assert left.id not in names(server) or server.store.get("pods", "team-a", left.id)["metadata"]["deletionTimestamp"]


def test_a_namespace_that_refuses_the_next_worker_hides_no_pods_of_others(namespaces, kubeconfig, server):
    namespaces.add("forbidden")
    server.inject(path="/namespaces/forbidden/pods", status=403, message="pods is forbidden", times=100)
    executor = KubernetesExecutor(installation=INSTALLATION, worker="one", names=namespaces)
    one = msgspec.structs.replace(launch("true"), keep=True)
    assert Running(executor, one).exit().code == 0
    assert [sandbox.id for sandbox in executor.sandboxes()] == [one.id]
    assert executor.sweep(frozenset()) == [one.id]


def test_while_redis_is_away_a_task_runs_all_the_same(kubeconfig, shop, monkeypatch, caplog):
    broker = Broker(shop.app.app)
    monkeypatch.setattr(Broker, "client", redis.Redis(port=1, retry=Retry(NoBackoff(), 0)))
    executor = KubernetesExecutor(installation=INSTALLATION, worker="one", names=Namespaces(broker))
    assert Running(executor, launch("true")).exit().code == 0
    executor.sweep(frozenset())
    assert "is not remembered, should this worker die now" in caplog.text
    assert "namespaces that other workers used are not looked at now" in caplog.text


def test_a_second_delivery_finds_its_pod_where_a_worker_of_another_namespace_has_put_it(namespaces, kubeconfig, server):
    """As where a worker's `kube_namespace` was changed before it was started again."""
    one = msgspec.structs.replace(launch("echo once; sleep 3; exit 4"), keep=True)
    first = KubernetesExecutor(installation=INSTALLATION, worker="one", namespace="team-a", names=namespaces)
    left = Running(first, one)
    left.wait_output(b"once")
    first.abandon(one.id)
    with pytest.raises(Abandoned):
        left.exit()
    next_ = KubernetesExecutor(installation=INSTALLATION, worker="two", namespace="team-b", names=namespaces)
    run = Running(next_, msgspec.structs.replace(one, redelivered=True))
    ended = run.exit()
    assert (ended.adopted, ended.code, run.output) == (True, 4, b"once\n")
    assert server.store.listed("pods", "team-b")[0] == []
    next_.discard(one.id)


def test_last_words_are_read_and_a_pod_is_ended_where_another_worker_has_put_it(installation, left, namespaces, server):
    """As for a dead letter, by a worker that has no pods there."""
    another = KubernetesExecutor(installation=installation, worker="alive@test", names=namespaces)
    assert another.tail(left.id, 1000) == b"last words\n"
    another.discard(left.id)
    wait_until(lambda: left.id not in names(server), timeout=60, what="it to be gone")
