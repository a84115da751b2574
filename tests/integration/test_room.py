"""Tasks wait for their memory: a worker whose host has room for one of them at a time."""

import pytest
from waiting import wait_until

from cellwork.errors import HostTooSmall

TIMEOUT = 60


@pytest.fixture(scope="module")
def small_host(start_worker):
    """Four slots, and memory for one task of 128 MiB beside one of 64."""
    worker = start_worker(
        "-c", "4", "-Q", "small", name="small", CELLWORK_HOST_MEMORY="200m", CELLWORK_WARM_MEMORY_BYTES="0"
    )
    yield worker
    worker.stop()


def rows(worker) -> dict[str, str]:
    """Task id to status."""
    found = worker.app.control.broadcast("cellwork_ps", destination=[worker.name], reply=True, timeout=2, limit=1)
    return {row["task_id"]: row["status"] for row in found[0][worker.name]}


def test_a_task_waits_for_room_where_it_is_seen_and_revoked_and_a_smaller_one_goes_before_it(shop, small_host):
    first = shop.tasks.sleep.apply_async((6,), queue="small")
    wait_until(lambda: rows(small_host).get(first.id) == "running", what="the first task to run")
    second = shop.tasks.echo.apply_async(("second",), queue="small")
    unwanted = shop.tasks.echo.apply_async(("unwanted",), queue="small")
    waiting = {second.id: "waiting", unwanted.id: "waiting"}
    wait_until(lambda: waiting.items() <= rows(small_host).items(), what="two tasks to wait")
    room = small_host.inspect("stats")["pool"]["room"]
    assert (room["memory_bytes"], room["of_memory_bytes"], room["waiting"]) == (128 << 20, 200 << 20, 2)
    small = shop.tasks.echo.apply_async(("small",), memory="64m", queue="small")
    assert small.get(timeout=TIMEOUT) == "small"
    unwanted.revoke(terminate=True)
    wait_until(lambda: unwanted.id not in rows(small_host), what="the revoked one to be gone")
    assert unwanted.state == "REVOKED"
    assert not first.ready()
    assert (first.get(timeout=TIMEOUT), second.get(timeout=TIMEOUT)) == (6, "second")


def test_a_task_that_is_larger_than_the_host_says_so_at_once(shop, small_host):
    with pytest.raises(HostTooSmall, match=r"shop.tasks.echo\[.*memory=201 MiB, and this .* has 200 MiB"):
        shop.tasks.echo.apply_async((1,), memory="201m", queue="small").get(timeout=TIMEOUT)
    with pytest.raises(HostTooSmall, match="cpus=900, and this worker's host has"):
        shop.tasks.echo.apply_async((1,), cpus=900, queue="small").get(timeout=TIMEOUT)
