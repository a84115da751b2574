"""Bodies that misbehave, many of them: the worker goes on, and does not grow."""

import psutil
import pytest

from cellwork.errors import ImageUnavailable, InvalidSpec, PolicyViolation

TIMEOUT = 110


def test_an_image_that_does_not_exist_fails_the_task_at_once(tasks):
    with pytest.raises(ImageUnavailable, match=r"task shop\.tasks\.echo: image cellwork/nowhere:1"):
        tasks.echo.apply_async((1,), image="cellwork/nowhere:1").get(timeout=TIMEOUT)


def test_what_the_policy_refuses_is_not_started(tasks):
    with pytest.raises(PolicyViolation, match="network='host' is never allowed"):
        tasks.echo.apply_async((1,), network="host").get(timeout=TIMEOUT)


def test_a_call_cannot_choose_which_folder_of_the_worker_is_shipped(tasks):
    with pytest.raises(InvalidSpec, match="code_root='/etc' came with the call"):
        tasks.echo.apply_async((1,), code_root="/etc").get(timeout=TIMEOUT)


@pytest.mark.timeout(240)
def test_a_gigabyte_of_output_ends_well_and_the_worker_does_not_grow(hostile, tasks, shared_worker):
    worker = psutil.Process(shared_worker.process.pid)
    tasks.echo.delay(1).get(timeout=TIMEOUT)
    before = worker.memory_info().rss
    assert hostile.floods.delay(1024).get(timeout=200) == 1024
    assert worker.memory_info().rss - before < 20 << 20
    assert "bytes more, not shown here" in shared_worker.text


@pytest.mark.timeout(240)
def test_two_hundred_misbehaving_tasks_leave_the_worker_as_it_was(hostile, tasks, shared_worker):
    calls = [
        lambda: tasks.unserialisable.delay(),
        lambda: hostile.prints_garbage.delay(),
        lambda: hostile.forges_frames.delay(),
        lambda: hostile.leaves_at_once.delay(),
        lambda: hostile.kills_its_parent.delay(),
        lambda: hostile.raises_nasty.delay(),
        lambda: hostile.returns_much.delay(9 << 20),
        lambda: tasks.echo.apply_async((1,), image="cellwork/nowhere:1"),
    ]

    def misbehave(times: int) -> int:
        results = [call() for _ in range(times) for call in calls]
        for result in results:
            result.get(timeout=TIMEOUT, propagate=False)
        return psutil.Process(shared_worker.process.pid).memory_info().rss

    before = misbehave(2)
    after = misbehave(25)
    print(f"worker RSS: {before >> 20} MiB before, {after >> 20} MiB after 200 misbehaving tasks")
    assert after - before < 20 << 20
    assert tasks.echo.delay("still here").get(timeout=TIMEOUT) == "still here"
