"""A task that needs more memory than its worker's host should give becomes a pod, once."""

import json

import pytest
from waiting import wait_until

from cellwork.broker import Broker
from cellwork.usagestore import UsageStore

TIMEOUT = 100


@pytest.fixture(autouse=True)
def broker_(shop):
    """Each test begins, and leaves off, with a task of which nothing is known."""
    broker = Broker(shop.app.app)
    broker.client.delete(broker.key("needs", "shop.hostile.needs_memory"))
    yield broker
    broker.client.delete(broker.key("needs", "shop.hostile.needs_memory"))
    broker.close()


def send(shop, cluster, **options):
    memory = {"memory": "64m", "memory_max": "512m"}
    return shop.hostile.needs_memory.apply_async((180,), image=cluster.image, **memory, **options)


def test_past_the_threshold_it_becomes_a_pod_and_the_next_run_is_one_at_once(
    shop, cluster, container_worker, pod_worker
):
    result = send(shop, cluster)
    assert result.get(timeout=TIMEOUT) == [180, 0]
    tried = [64 << 20, 128 << 20, 256 << 20]
    assert shop.app.app.backend.get_task_meta(result.id)["cellwork"]["memory_tried"] == tried
    (moved,) = (line for line in container_worker.text.splitlines() if "becomes a pod" in line)
    assert "memory 128 MiB > 100 MiB, as it turned out, after 64 MiB" in moved
    assert f"{result.id}" in pod_worker.text
    again = send(shop, cluster)
    assert again.get(timeout=TIMEOUT) == [180, 0]
    assert f"cellwork-{again.id}-0 starts with 256 MiB, as earlier runs needed" in container_worker.text
    assert "memory_tried" not in shop.app.app.backend.get_task_meta(again.id)["cellwork"], "no sandbox of it was killed"
    wait_until(lambda: not container_worker.inspect("active"), what="both deliveries to be acknowledged")
    wait_until(lambda: not shop.app.app.backend.client.exists("unacked_index"), what="nothing to be left")


@pytest.mark.parametrize("when", ["while it is a pod", "when the pod has ended"])
def test_a_worker_that_dies_before_it_acknowledges_what_has_become_a_pod_has_nothing_run_again(
    shop, cluster, broker_, container_worker, pod_worker, when
):
    def held():
        messages = (json.loads(one)[0] for one in broker_.client.hvals("unacked"))
        return next((message for message in messages if message["headers"]["id"] == result.id), None)

    result = send(shop, cluster)
    message = wait_until(held, what="it to be taken")
    wait_until(lambda: result.id in pod_worker.text, timeout=TIMEOUT, what="it to be taken as a pod")
    assert container_worker.text.count("becomes a pod") == 1
    if when == "when the pod has ended":
        assert result.get(timeout=TIMEOUT) == [180, 0]
    # What the broker does with what a dead worker had.
    broker_.client.rpush("docker", json.dumps(message))
    assert result.get(timeout=TIMEOUT) == [180, 0]
    wait_until(lambda: not broker_.client.exists("unacked_index", "docker"), what="both to be acknowledged")
    assert container_worker.text.count("becomes a pod") == 1
    runs = wait_until(
        lambda: (found := [one for one in UsageStore(broker_).runs() if one.task_id == result.id])[2:] and found,
        what="its bill",
    )
    assert [(run.executor, run.memory_bytes >> 20, run.outcome) for run in runs] == [
        ("docker", 64, "out-of-memory"),
        ("kubernetes", 128, "out-of-memory"),
        ("kubernetes", 256, "success"),
    ]


def test_where_it_asks_for_containers_it_stays_in_them(shop, cluster, container_worker, pod_worker):
    result = send(shop, cluster, executor="docker")
    assert result.get(timeout=TIMEOUT) == [180, 0]
    assert "becomes a pod" not in container_worker.text
    assert result.id not in pod_worker.text
