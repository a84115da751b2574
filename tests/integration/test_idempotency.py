"""Idempotency keys, with a real worker."""

import uuid

import pytest
import redis
from celery import chain
from waiting import wait_until

from cellwork.errors import InvalidSpec

TIMEOUT = 60


@pytest.fixture
def key() -> str:
    return f"order {uuid.uuid4()}"


def test_the_same_key_gives_the_same_task_while_it_waits_runs_and_after_it_has_succeeded(tasks, key, shared_worker):
    first = tasks.sleep.apply_async((1,), idempotency_key=key)
    assert tasks.sleep.apply_async((1,), idempotency_key=key).id == first.id
    wait_until(lambda: first.state == "STARTED", timeout=TIMEOUT, what="it to run")
    second = tasks.sleep.apply_async((1,), idempotency_key=key)
    assert second.id == first.id
    assert second.get(timeout=TIMEOUT) == 1
    assert tasks.sleep.apply_async((1,), idempotency_key=key).id == first.id
    assert shared_worker.text.count(f"[{first.id}] received") == 1


def test_other_keys_and_other_tasks_are_not_kept_apart_from_running(tasks, key):
    results = [
        tasks.echo.apply_async((1,), idempotency_key=key),
        tasks.echo.apply_async((1,), idempotency_key=key + "!"),
        tasks.context.apply_async(idempotency_key=key),
    ]
    assert len({result.id for result in results}) == 3
    for result in results:
        result.get(timeout=TIMEOUT)


def test_a_failure_frees_the_key(tasks, key):
    first = tasks.fail_builtin.apply_async(("no",), idempotency_key=key)
    with pytest.raises(ValueError, match="no"):
        first.get(timeout=TIMEOUT)
    second = tasks.fail_builtin.apply_async(("no",), idempotency_key=key)
    assert second.id != first.id
    with pytest.raises(ValueError, match="no"):
        second.get(timeout=TIMEOUT)


def test_a_task_that_is_retried_keeps_its_key_until_it_has_succeeded(tasks, key, broker, installation):
    client = redis.Redis.from_url(f"{broker}/0")
    first = tasks.retried_by_current.apply_async(idempotency_key=key)  # it never does
    first.get(timeout=TIMEOUT, propagate=False)
    assert tasks.retried_by_rule.apply_async((2,), idempotency_key=key).get(timeout=TIMEOUT) == 2
    kept = client.keys(f"cellwork:{installation}:idempotency:shop.tasks.retried_by_*")

    def times() -> list[int]:
        return [client.ttl(name) for name in client.keys(f"cellwork:{installation}:idempotency:shop.tasks.retried_*")]

    wait_until(
        lambda: [86000 < left <= 86400 for left in times()] == [True], what=f"one key for a day, one freed; {times()}"
    )
    assert kept


def test_a_message_that_cannot_be_sent_frees_the_key(tasks, key):
    with pytest.raises(Exception, match="JSON cannot carry"):
        tasks.echo.apply_async((object(),), idempotency_key=key)
    assert tasks.echo.apply_async((1,), idempotency_key=key).get(timeout=TIMEOUT) == 1


@pytest.mark.parametrize("wrong", ["", 7])
def test_a_key_that_is_no_text_is_refused(tasks, wrong):
    with pytest.raises(InvalidSpec, match="idempotency_key"):
        tasks.echo.apply_async((1,), idempotency_key=wrong)


def test_a_key_in_a_canvas_is_refused(tasks, key):
    with pytest.raises(InvalidSpec, match=r"in a canvas \(chain\)"):
        chain(tasks.echo.s(1).set(idempotency_key=key), tasks.echo.s()).apply_async()
