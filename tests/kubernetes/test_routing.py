"""Where the next task of a canvas, and the next try, go: the worker decides that, by its own rules."""

from celery import chain

TIMEOUT = 60


def header(shop, task_id: str) -> dict:
    return shop.app.app.backend.get_task_meta(task_id)["cellwork"]


def test_the_next_step_of_a_chain_is_routed_by_the_worker_that_sends_it(shop, cluster, container_worker, pod_worker):
    image = {"image": cluster.image}
    # The producer has no thresholds: with its own, nothing of this would be a pod.
    steps = chain(
        shop.tasks.add.s(2, 3).set(**image, memory="64m"),
        shop.tasks.add.s(4).set(**image, memory="128m"),
        shop.tasks.add.s(5).set(**image, memory="64m"),
    )
    result = steps.apply_async()
    assert result.get(timeout=TIMEOUT) == 14
    assert [header(shop, one.id)["executor"] for one in (result.parent.parent, result.parent)] == [
        "docker",
        "kubernetes",
    ]
    assert f"cellwork-{result.parent.id}-0 goes to kubernetes: memory 128 MiB > 100 MiB" in pod_worker.text


def test_a_retry_of_a_pod_is_a_pod_and_says_that_the_route_is_kept(shop, cluster, pod_worker):
    result = shop.tasks.retried_by_self.apply_async((1,), executor="kubernetes", image=cluster.image)
    assert result.get(timeout=TIMEOUT) == 1
    assert f"cellwork-{result.id}-0 goes to kubernetes: executor='kubernetes' in the call\n" in pod_worker.text
    assert f"cellwork-{result.id}-1 goes to kubernetes: executor='kubernetes' in the call, kept\n" in pod_worker.text
