"""Sandboxes started ahead of need: used once, replaced, never stale, gone with their worker."""

import json
import signal
import subprocess
import sys
import uuid

import pytest
from conftest import PROJECT, waits
from waiting import wait_until

TIMEOUT = 60


@pytest.fixture
def worker(request, start_worker):
    """One of its own: what it holds ready is nobody else's doing. Idle ones stay for longer than a test takes."""
    idle = getattr(request, "param", "300")
    process = start_worker("-c", "4", "-Q", f"warm-{uuid.uuid4().hex}", CELLWORK_WARM_IDLE_SECONDS=idle)
    yield process
    process.stop()


@pytest.fixture
def queue(worker) -> str:
    return worker.process.args[-1]


@pytest.fixture
def waiting(worker, containers_of):
    """The worker's sandboxes that wait for a task."""
    return lambda: [c for c in containers_of(worker) if waits(c) and c["State"] == "running"]


def pool(worker) -> dict:
    return worker.inspect("stats")["pool"]["warm"]


def is_ready(worker, number: int) -> bool:
    warm = pool(worker)
    return sum(warm["waiting"].values()) == number and not warm["starting"]


def hits(worker) -> int:
    return pool(worker)["hits"]


def test_the_second_task_finds_a_sandbox_that_waited_and_none_is_used_twice(worker, queue, shop):
    seen = {shop.tasks.control_group.apply_async(queue=queue).get(timeout=TIMEOUT)}
    for _ in range(3):
        wait_until(lambda: is_ready(worker, 2), timeout=TIMEOUT, what="two sandboxes to wait")
        before = hits(worker)
        seen.add(shop.tasks.control_group.apply_async(queue=queue).get(timeout=TIMEOUT))
        assert hits(worker) == before + 1
    assert len(seen) == 4


def test_doctor_tells_how_a_workers_warm_sandboxes_are_used(worker, queue, shop):
    for _ in range(2):
        shop.tasks.control_group.apply_async(queue=queue).get(timeout=TIMEOUT)
        wait_until(lambda: is_ready(worker, 2), timeout=TIMEOUT, what="two sandboxes to wait")
    ran = subprocess.run(
        [sys.executable, "-m", "cellwork", "doctor", "-A", "shop.app", "--json"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    facts = next(row["facts"] for row in json.loads(ran.stdout) if row["what"] == "workers")
    told = facts[worker.name]
    assert "; warm: 1 hits, 1 misses, 2 waiting, 0 starting, ready in " in told
    assert f" {pool(worker)['start_seconds_p50']:g} s (p50)" in told


def test_nothing_of_a_task_is_left_for_the_next_in_a_warm_sandbox(worker, queue, shop):
    for _ in range(4):
        assert shop.tasks.traces.apply_async(queue=queue).get(timeout=TIMEOUT) == []
        wait_until(lambda: is_ready(worker, 2), timeout=TIMEOUT, what="two sandboxes to wait")
    assert hits(worker) == 3


@pytest.mark.parametrize("worker", ["20"], indirect=True)
def test_a_burst_is_remembered_and_an_idle_worker_holds_none(worker, queue, shop, waiting):
    burst = [shop.tasks.sleep.apply_async((0.5,), queue=queue) for _ in range(4)]
    for result in burst:
        result.get(timeout=TIMEOUT)
    wait_until(lambda: is_ready(worker, 5), timeout=TIMEOUT, what="as many as ran at once, and one more, to wait")
    wait_until(lambda: not waiting(), timeout=40, what="the idle ones to go")


def test_a_warm_sandbox_that_died_is_replaced_unseen(worker, queue, shop, waiting, engine):
    shop.tasks.echo.apply_async((1,), queue=queue).get(timeout=TIMEOUT)
    wait_until(lambda: is_ready(worker, 2), timeout=TIMEOUT, what="two sandboxes to wait")
    for container in waiting():
        engine.api.kill(container["Id"])
    assert shop.tasks.echo.apply_async((2,), queue=queue).get(timeout=TIMEOUT) == 2
    # It may have met a replacement already.
    before = hits(worker)
    wait_until(lambda: is_ready(worker, 2), timeout=TIMEOUT, what="two others to wait")
    assert shop.tasks.echo.apply_async((3,), queue=queue).get(timeout=TIMEOUT) == 3
    assert hits(worker) == before + 1


def test_a_tag_that_moved_to_another_image_is_seen_before_the_next_task(worker, queue, shop, engine, waiting):
    tag = f"cellwork-test/moved:{uuid.uuid4().hex[:8]}"

    def version() -> str:
        return shop.tasks.python_version.apply_async(queue=queue, image=tag).get(timeout=TIMEOUT)

    try:
        engine.images.get("cellwork/python:base").tag(tag)
        first = version()
        wait_until(lambda: is_ready(worker, 2), timeout=TIMEOUT, what="two sandboxes to wait")
        new = engine.images.get("cellwork/python:other")
        new.tag(tag)
        wait_until(lambda: {c["ImageID"] for c in waiting()} <= {new.id}, what="the old image's sandboxes to go")
        second = version()
        assert first != second
        # Those that have come in their place are of the new image, too, and are used.
        wait_until(lambda: is_ready(worker, 2), timeout=TIMEOUT, what="two others to wait")
        assert {c["ImageID"] for c in waiting()} == {new.id}
        before = hits(worker)
        assert version() == second
        assert hits(worker) == before + 1
    finally:
        engine.images.remove(tag)


def test_options_that_differ_never_share_a_sandbox(worker, queue, shop):
    for memory in ("100m", "110m", "100m"):
        given = shop.tasks.where.apply_async(queue=queue, memory=memory).get(timeout=TIMEOUT)
        assert given["memory"] == int(memory[:-1]) << 20
        wait_until(lambda: not pool(worker)["starting"], timeout=TIMEOUT, what="starts to be over")
    assert hits(worker) <= 1


def test_a_task_may_refuse_a_warm_sandbox(worker, queue, shop, waiting):
    for _ in range(3):
        shop.tasks.echo.apply_async((1,), queue=queue, warm=False).get(timeout=TIMEOUT)
    assert (waiting(), hits(worker)) == ([], 0)


def test_preloaded_modules_are_there_before_the_task_and_a_missing_one_is_its_error(worker, queue, shop):
    loaded = shop.tasks.loaded.signature(("sqlite3",), queue=queue)
    assert loaded.apply_async().get(timeout=TIMEOUT) is False
    for _ in range(2):
        assert loaded.apply_async(preload=["sqlite3"]).get(timeout=TIMEOUT) is True
        wait_until(lambda: not pool(worker)["starting"], timeout=TIMEOUT, what="starts to be over")
    with pytest.raises(ModuleNotFoundError, match="nosuchmodule"):
        loaded.apply_async(preload="nosuchmodule").get(timeout=TIMEOUT)


def test_waiting_sandboxes_end_when_their_worker_is_killed(worker, queue, shop, waiting, engine, containers_of):
    shop.tasks.echo.apply_async((1,), queue=queue).get(timeout=TIMEOUT)
    wait_until(lambda: is_ready(worker, 2), timeout=TIMEOUT, what="two sandboxes to wait")
    worker.signal(signal.SIGKILL)
    worker.wait()
    wait_until(lambda: not waiting(), what="them to see that nobody will send a task")
    for container in containers_of(worker):
        engine.api.remove_container(container["Id"], force=True)


def test_a_warm_task_can_be_revoked_and_limited(worker, queue, shop, nothing_left):
    shop.tasks.echo.apply_async((1,), queue=queue).get(timeout=TIMEOUT)
    for limits, error in (({}, "TaskRevokedError"), ({"time_limit": 3}, "TimeLimitExceeded")):
        wait_until(lambda: is_ready(worker, 2), timeout=TIMEOUT, what="two sandboxes to wait")
        before = hits(worker)
        result = shop.tasks.sleep.apply_async((60,), queue=queue, **limits)
        wait_until(lambda before=before: hits(worker) == before + 1, timeout=TIMEOUT, what="it to be in its sandbox")
        if not limits:
            result.revoke(terminate=True, signal="SIGKILL")
        assert type(result.get(timeout=TIMEOUT, propagate=False)).__name__ == error
        assert hits(worker) == before + 1
    nothing_left()
