"""Redis goes away and returns: workers wait for it, at their start as well, and what they ran is counted once."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery
from conftest import WorkerProcess
from kombu import Connection, Consumer, Message, Queue
from ownredis import OwnRedis
from waiting import wait_until

from cellwork import configure
from cellwork.broker import register_transport

TIMEOUT = 90


@pytest.fixture
def own(tmp_path) -> Iterator[OwnRedis]:
    server = OwnRedis(tmp_path / "redis")
    yield server
    server.stop()


@pytest.fixture
def send(own, installation, monkeypatch):
    """Send a task; gives what tells its state."""
    for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"):  # of the other tests
        monkeypatch.delenv(name)
    app = configure(Celery("restarts", set_as_current=False), installation=installation)
    app.conf.update(broker_url=f"{own.url}/0", result_backend=f"{own.url}/1")
    # Sending must not subscribe to results that nobody here reads.
    app.backend.on_task_call = lambda producer, task_id: None

    def send(name: str, *args: object):
        task_id = str(uuid.uuid4())
        app.send_task(name, args, task_id=task_id, queue="restarts")

        def state() -> str | None:
            with redis.Redis.from_url(f"{own.url}/1") as client:
                text = client.get(f"celery-task-meta-{task_id}")
            return json.loads(text)["status"] if text else None

        return state

    return send


@pytest.fixture
def start(own, shop, engine, tmp_path, nothing_left) -> Iterator:
    """Start a worker without waiting for it."""
    started = []

    def start() -> WorkerProcess:
        env = {"CELERY_BROKER_URL": f"{own.url}/0", "CELERY_RESULT_BACKEND": f"{own.url}/1"}
        name = f"restarts{len(started)}"
        started.append(WorkerProcess(shop.app.app, tmp_path / f"{name}.log", name, ("-c", "2", "-Q", "restarts"), env))
        return started[-1]

    yield start
    for worker in started:
        worker.stop()


def test_a_worker_whose_tasks_end_after_redis_restarted_acknowledges_them_and_goes_on(own, send, start):
    own.start()
    worker = start().wait_ready()
    running = [send("shop.tasks.sleep", 3) for _ in range(2)]
    wait_until(lambda: [state() for state in running] == ["STARTED"] * 2, timeout=TIMEOUT, what="both to run")
    own.stop()
    own.start()
    wait_until(lambda: [state() for state in running] == ["SUCCESS"] * 2, timeout=TIMEOUT, what="their outcomes")
    with redis.Redis.from_url(f"{own.url}/0") as client:
        wait_until(
            lambda: not client.exists("unacked") and not client.llen("restarts"),
            timeout=TIMEOUT,
            what="the messages to be acknowledged",
        )
    another = send("shop.tasks.sleep", 0)
    wait_until(lambda: another() == "SUCCESS", timeout=TIMEOUT, what="another task's outcome")
    assert worker.process.poll() is None, worker.text


@pytest.fixture
def taken(own) -> Iterator[tuple[redis.Redis, Any, Message]]:
    """Redis, a channel, and a message that came by it."""
    register_transport()
    own.start()
    with redis.Redis.from_url(f"{own.url}/0") as client, Connection(f"{own.url}/0") as connection:
        with connection.Producer() as producer:
            producer.publish({}, routing_key="taken", declare=[Queue("taken", routing_key="taken")])
        channel = connection.channel()
        channel.basic_qos(0, 2, False)
        messages: list[Message] = []
        Consumer(channel, [Queue("taken")], on_message=messages.append).consume()
        wait_until(lambda: messages or connection.drain_events(timeout=5), what="the message to be taken")
        assert client.hlen("unacked") == 1
        yield client, channel, messages[0]


def test_what_a_channel_has_taken_returns_to_its_queue_though_kombu_has_forgotten_how_to_connect(taken):
    client, channel, _ = taken
    # As it is where Celery closes what is left of a connection that broke while Redis was away.
    channel.connection.client = None
    channel.close()
    assert (client.hlen("unacked"), client.llen("taken")) == (0, 1)


def test_a_task_that_ends_after_the_channel_that_it_came_by_was_closed_is_acknowledged(taken):
    """As it is where a task ends while Celery connects anew."""
    client, channel, message = taken
    channel.connection.close_channel(channel)
    channel._disconnect_pools()
    message.ack()
    assert (client.hlen("unacked"), client.llen("taken")) == (0, 0)


def test_a_worker_that_is_started_before_its_redis_waits_for_it(own, send, start):
    worker = start()
    wait_until(lambda: "Trying again in" in worker.text, timeout=TIMEOUT, what="the worker to say that it waits")
    own.start()
    worker.wait_ready()
    state = send("shop.tasks.sleep", 0)
    wait_until(lambda: state() == "SUCCESS", timeout=TIMEOUT, what="its outcome")


def test_a_worker_that_waits_for_its_redis_ends_when_it_is_told_to(start):
    worker = start()
    wait_until(lambda: "Trying again in" in worker.text, timeout=TIMEOUT, what="the worker to say that it waits")
    worker.stop()
    assert "Traceback" not in worker.text
