"""A task that the kernel kills for memory is started again with more, and keeps its own retries."""

import threading

import pytest
from waiting import wait_until

from cellwork.broker import Broker
from cellwork.errors import OutOfMemory
from cellwork.usagestore import UsageStore

TIMEOUT = 100


@pytest.fixture
def runs(shop):
    """What is recorded of a task's sandboxes, once its last one has ended well."""
    broker = Broker(shop.app.app)
    store = UsageStore(broker)

    def runs(task_id: str) -> list:
        def found() -> list:
            ours = [run for run in store.runs() if run.task_id == task_id]
            return ours if any(run.outcome == "success" for run in ours) else []

        return wait_until(found, what="its usage")

    yield runs
    broker.close()


@pytest.fixture(autouse=True)
def nothing_learned(shop):
    """Each test begins, and leaves off, with a task of which nothing is known."""
    broker = Broker(shop.app.app)
    broker.client.delete(broker.key("needs", "shop.hostile.needs_memory"))
    yield
    broker.client.delete(broker.key("needs", "shop.hostile.needs_memory"))
    broker.close()


@pytest.fixture
def succeeded(shop):
    """The events of tasks that ended well, as Flower gets them, by the task's id."""
    app, found = shop.app.app, {}
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"task-succeeded": lambda e: found.update({e["uuid"]: e})})
        thread = threading.Thread(target=lambda: list(receiver.itercapture(timeout=None, wakeup=False)))
        thread.start()
        yield found
        receiver.should_stop = True
        thread.join()


def test_killed_for_memory_it_ends_well_with_more_and_its_next_run_starts_there(
    hostile, shared_worker, runs, succeeded
):
    result = hostile.needs_memory.apply_async((180,), memory="64m", memory_max="1g")
    assert result.get(timeout=TIMEOUT) == [180, 0]
    starts = [line for line in shared_worker.text.splitlines() if result.id in line and "starts again with" in line]
    assert [line.partition("starts again with ")[2].partition(":")[0] for line in starts] == ["128 MiB", "256 MiB"]
    tried = [64 << 20, 128 << 20, 256 << 20]
    assert hostile.app.backend.get_task_meta(result.id)["cellwork"]["memory_tried"] == tried
    event = wait_until(lambda: succeeded.get(result.id), what="its event")
    assert (event["memory_tried"], event["ooms"]) == ("64 MiB, 128 MiB, 256 MiB", 2)
    (run,) = (run for run in runs(result.id) if run.outcome == "success")
    assert run.memory_bytes == 256 << 20
    again = hostile.needs_memory.apply_async((180,), memory="64m", memory_max="1g")
    assert again.get(timeout=TIMEOUT) == [180, 0]
    assert [run.memory_bytes for run in runs(again.id)] == [256 << 20]
    assert "memory_tried" not in hostile.app.backend.get_task_meta(again.id)["cellwork"]


def test_at_its_maximum_it_fails_and_says_what_was_tried(hostile):
    result = hostile.eats_memory.apply_async(memory="48m", memory_max="100m")
    with pytest.raises(OutOfMemory, match="tried with 48 MiB, 96 MiB, 100 MiB, which is memory_max"):
        result.get(timeout=TIMEOUT)


def test_on_its_host_it_gets_all_that_there_is_and_then_says_so(hostile, start_worker):
    worker = start_worker("-c", "1", "-Q", "narrow", name="narrow", CELLWORK_HOST_MEMORY="100m")
    result = hostile.eats_memory.apply_async(memory="64m", memory_max="1g", queue="narrow")
    with pytest.raises(OutOfMemory, match="tried with 64 MiB, 100 MiB, which is all that its host has"):
        result.get(timeout=TIMEOUT)
    worker.stop()
