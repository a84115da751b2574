"""A Redis without room, or that is away for a while: workers wait and say so, and nothing is acknowledged unstored."""

import signal

import pytest
import redis
from waiting import wait_until

TIMEOUT = 60


@pytest.fixture
def client(broker):
    client = redis.Redis.from_url(f"{broker}/0")
    yield client
    client.config_set("maxmemory", 0)


def test_a_full_redis_slows_the_workers_and_no_outcome_is_lost(gate, start_worker, client):
    client.config_set("maxmemory-policy", "noeviction")
    worker = start_worker("-c", "1", "-Q", "full", name="full", CELLWORK_VISIBILITY_TIMEOUT="5", **gate.env)
    results = [gate.send("full") for _ in range(3)]
    wait_until(gate.begun, timeout=TIMEOUT, what="one to run")
    client.config_set("maxmemory", 1)
    gate.open()
    wait_until(lambda: "its outcome cannot be stored" in worker.text, timeout=TIMEOUT, what="the worker to say so")
    assert worker.process.poll() is None
    assert not any(result.ready() for result in results)
    assert client.hlen("unacked") + client.llen("full") == 3
    client.config_set("maxmemory", 0)
    assert [result.get(timeout=TIMEOUT) for result in results] == ["through\n"] * 3
    wait_until(lambda: not client.exists("unacked"), what="all to be acknowledged")
    worker.stop()


def test_a_full_redis_does_not_lose_a_message_that_is_about_to_be_taken(shop, start_worker, client):
    client.config_set("maxmemory-policy", "noeviction")
    worker = start_worker("-c", "1", "-Q", "fuller", name="fuller")
    worker.signal(signal.SIGSTOP)
    result = shop.tasks.echo.apply_async((1,), queue="fuller")
    client.config_set("maxmemory", 1)
    worker.signal(signal.SIGCONT)
    wait_until(lambda: "Redis is full: no message can be taken" in worker.text, timeout=TIMEOUT, what="it to be told")
    assert client.llen("fuller") == 1
    client.config_set("maxmemory", 0)
    assert result.get(timeout=TIMEOUT) == 1
    worker.stop()
