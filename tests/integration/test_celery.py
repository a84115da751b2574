"""Celery's own features, with the bodies in containers."""

import signal
from datetime import UTC, datetime, timedelta

import pytest
from celery import chain, chord, group
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded
from waiting import wait_until

TIMEOUT = 60


def test_autoretry_runs_the_body_again_in_a_new_container(tasks):
    assert tasks.retried_by_rule.delay(2).get(timeout=TIMEOUT) == 2


def test_autoretry_gives_up_with_the_bodys_own_exception(tasks):
    error = tasks.retried_by_rule.delay(9).get(timeout=TIMEOUT, propagate=False)
    assert type(error).__name__ == "Busy"
    assert "try 3" in str(error)


def test_self_retry_inside_the_container_is_celerys_retry(tasks):
    assert tasks.retried_by_self.delay(2).get(timeout=TIMEOUT) == 2


def test_current_retry_gives_up_with_the_given_exception(tasks):
    error = tasks.retried_by_current.delay().get(timeout=TIMEOUT, propagate=False)
    assert type(error).__name__ == "Busy"


def test_what_a_call_overrides_survives_its_retries(tasks):
    assert tasks.memory_after_retry.apply_async(memory="96m").get(timeout=TIMEOUT) == 96 << 20


def test_a_chain_passes_values_on(tasks):
    assert chain(tasks.add.s(1, 2), tasks.add.s(10), tasks.echo.s())().get(timeout=TIMEOUT) == 13


def test_a_group_gives_all_values_in_order(tasks):
    assert group(tasks.add.s(i, i) for i in range(6))().get(timeout=TIMEOUT) == [0, 2, 4, 6, 8, 10]


def test_a_chord_runs_its_body_with_all_values(tasks):
    assert chord([tasks.add.s(i, 1) for i in range(4)], tasks.total.s())().get(timeout=TIMEOUT) == 10


def test_a_chord_with_a_failing_member_fails(tasks):
    result = chord([tasks.add.s(1, 1), tasks.fail_builtin.s("no")], tasks.total.s())()
    with pytest.raises(Exception, match="no"):
        result.get(timeout=TIMEOUT)
    wait_until(lambda: result.state == "FAILURE", what="the chord's body to have failed")


def test_a_stamp_on_a_canvas_is_an_option_of_all_its_members(tasks):
    canvas = chain(tasks.memory_after_retry.si(0), group(tasks.memory_after_retry.si(1) for _ in range(2)))
    canvas.stamp(memory="88m")
    assert canvas().get(timeout=TIMEOUT) == [88 << 20] * 2


def test_canvas_members_keep_their_own_overrides(tasks):
    signature = chain(tasks.echo.si(1), tasks.memory_after_retry.si(0).set(memory="80m"))
    assert signature().get(timeout=TIMEOUT) == 80 << 20


def test_link_error_is_called_with_the_remote_exception(tasks, shop):
    result = tasks.fail_builtin.apply_async(("linked",), link_error=tasks.errback.s())
    client = shop.app.app.backend.client
    noted = wait_until(lambda: client.lpop(f"errback:{result.id}"), timeout=TIMEOUT, what="the errback")
    assert noted == b"ValueError: ('linked', 42)"


def test_countdown_and_eta_wait(tasks):
    sent = datetime.now(UTC)
    later = tasks.context.apply_async(countdown=2)
    at = tasks.context.apply_async(eta=sent + timedelta(seconds=2))
    for result in (later, at):
        result.get(timeout=TIMEOUT)
        assert result.date_done - sent.replace(tzinfo=result.date_done.tzinfo) >= timedelta(seconds=2)


def test_a_hard_limit_kills_the_container(tasks, containers):
    result = tasks.sleep.apply_async((60,), time_limit=1)
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=TIMEOUT)
    assert result.state == "FAILURE"


def test_revoke_with_terminate_ends_a_running_task_and_its_container(tasks, shop, containers, shared_worker):
    result = tasks.stubborn.delay(60)
    wait_until(lambda: "| has started" in shared_worker.text, timeout=TIMEOUT, what="the body to run")
    result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=TIMEOUT)
    wait_until(lambda: not containers(), timeout=TIMEOUT, what="its container to go")
    wait_until(lambda: "| cleaned up" in shared_worker.text, what="its finally block to have run")


def test_revoke_with_sigkill_needs_nobodys_consent(tasks, containers):
    result = tasks.sleep.delay(60)
    wait_until(lambda: any(c["State"] == "running" for c in containers()), timeout=TIMEOUT, what="its container")
    result.revoke(terminate=True, signal="SIGKILL")
    with pytest.raises(TaskRevokedError):
        result.get(timeout=TIMEOUT)


def test_revoke_of_reserved_and_of_not_yet_delivered_tasks(shop, start_worker, containers):
    worker = start_worker("-c", "1", "-Q", "narrow", name="narrow")
    running = shop.tasks.sleep.apply_async((60,), queue="narrow")
    wait_until(lambda: worker.inspect("active"), timeout=TIMEOUT, what="the first task to run")
    # One is reserved by the worker (prefetch), the others stay in Redis.
    waiting = [shop.tasks.sleep.apply_async((0,), queue="narrow") for _ in range(3)]
    for result in waiting:
        result.revoke(terminate=True)
    wait_until(lambda: len(worker.inspect("revoked")) >= 3, what="the worker to know of the revokes")
    running.revoke(terminate=True)
    for result in (running, *waiting):
        with pytest.raises(TaskRevokedError):
            result.get(timeout=TIMEOUT)
    after = shop.tasks.echo.apply_async(("after",), queue="narrow")
    assert after.get(timeout=TIMEOUT) == "after", "the slot is free again"
    worker.stop()


def test_concurrency_is_the_number_of_containers_at_once(shop, start_worker, containers):
    worker = start_worker("-c", "3", "-Q", "three", name="three")
    results = [shop.tasks.sleep.apply_async((3,), queue="three") for _ in range(5)]
    wait_until(lambda: len(worker.inspect("active")) == 3, timeout=TIMEOUT, what="three tasks to run")
    assert len(containers()) <= 3
    assert worker.inspect("stats")["pool"]["max-concurrency"] == 3
    assert [result.get(timeout=TIMEOUT) for result in results] == [3] * 5
    worker.stop()


def test_pool_grow_and_shrink_change_how_many_run(shop, start_worker):
    worker = start_worker("-c", "1", "-Q", "elastic", name="elastic")
    results = [shop.tasks.sleep.apply_async((4,), queue="elastic") for _ in range(3)]
    wait_until(lambda: worker.inspect("active"), timeout=TIMEOUT, what="the first task to run")
    shop.app.app.control.pool_grow(2, destination=[worker.name], reply=True)
    wait_until(lambda: len(worker.inspect("active")) == 3, timeout=TIMEOUT, what="three tasks to run")
    shop.app.app.control.pool_shrink(2, destination=[worker.name], reply=True)
    assert worker.inspect("stats")["pool"]["max-concurrency"] == 1
    assert [result.get(timeout=TIMEOUT) for result in results] == [4] * 3
    worker.stop()


def test_autoscale_adds_slots_under_load_and_takes_them_back(shop, start_worker):
    worker = start_worker("--autoscale=3,1", "-Q", "auto", name="auto", AUTOSCALE_KEEPALIVE="1")
    results = [shop.tasks.sleep.apply_async((3,), queue="auto") for _ in range(6)]
    wait_until(lambda: len(worker.inspect("active")) == 3, timeout=TIMEOUT, what="three tasks to run")
    assert [result.get(timeout=TIMEOUT) for result in results] == [3] * 6
    wait_until(
        lambda: worker.inspect("stats")["pool"]["max-concurrency"] == 1, timeout=TIMEOUT, what="the pool to shrink"
    )
    worker.stop()


def test_two_workers_share_one_queue(shop, start_worker):
    workers = [start_worker("-c", "1", "-Q", "pair", name=f"pair{i}") for i in range(2)]
    results = [shop.tasks.sleep.apply_async((2,), queue="pair") for _ in range(2)]
    wait_until(lambda: all(w.inspect("active") for w in workers), timeout=TIMEOUT, what="both to work")
    assert [result.get(timeout=TIMEOUT) for result in results] == [2, 2]
    for worker in workers:
        worker.stop()


def test_a_warm_shutdown_drains(shop, start_worker, containers_of):
    worker = start_worker("-c", "2", "-Q", "drain", name="drain")
    results = [shop.tasks.sleep.apply_async((4,), queue="drain") for _ in range(2)]
    wait_until(lambda: len(worker.inspect("active")) == 2, timeout=TIMEOUT, what="both to run")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert [result.get(timeout=5) for result in results] == [4, 4]
    assert not containers_of(worker)


def test_a_cold_shutdown_kills_and_requeues(shop, start_worker, containers, containers_of):
    first = start_worker("-c", "2", "-Q", "cold", name="cold1")
    result = shop.tasks.sleep.apply_async((6,), queue="cold")
    wait_until(lambda: any(c["State"] == "running" for c in containers()), timeout=TIMEOUT, what="its container")
    first.signal(signal.SIGQUIT)
    first.wait()
    assert not containers_of(first), "the worker took its sandbox with it"
    assert not result.ready()
    second = start_worker("-c", "1", "-Q", "cold", name="cold2")
    assert result.get(timeout=TIMEOUT) == 6
    second.stop()


@pytest.mark.parametrize(
    ("option", "error"), [("--soft-time-limit", SoftTimeLimitExceeded), ("--time-limit", TimeLimitExceeded)]
)
def test_the_workers_own_time_limit_holds_for_tasks_that_have_none(start_worker, shop, nothing_left, option, error):
    worker = start_worker("-c", "1", "-Q", f"own{option}", option, "1")
    result = shop.tasks.sleep.apply_async((60,), queue=f"own{option}")
    with pytest.raises(error):
        result.get(timeout=TIMEOUT)
    nothing_left()
    worker.stop()
