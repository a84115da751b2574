"""The router on a real broker: what it sees of the cluster, that it never waits for that, and what it tells."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest
import redis
from celery import Celery
from conftest import PROJECT
from waiting import wait_until

from cellwork import configure
from cellwork.broker import Broker
from cellwork.errors import NoWorker
from cellwork.traffic import Traffic
from cellwork_worker import heartbeat
from cellwork_worker.heartbeat import Heartbeat


@pytest.fixture
def make(broker, installation):
    """An application that shares the tests' broker and installation."""
    made = []

    def make(**settings) -> Celery:
        app = configure(Celery("routed", set_as_current=False), installation=installation, **settings)
        app.conf.update(broker_url=f"{broker}/0", result_backend=f"{broker}/1")
        made.append(app)
        return app

    yield make
    for app in made:
        app.close()


@pytest.fixture
def client(broker):
    client = redis.Redis.from_url(f"{broker}/0")
    yield client
    client.delete("crowded", "kubernetes")


@pytest.fixture
def pods_are_served(installation, broker):
    """A worker says that it takes from the queue of pods."""
    app = Celery("says", set_as_current=False)
    app.conf.update(broker_url=f"{broker}/0", cellwork={"installation": installation})
    one = Broker(app)
    says = Heartbeat(
        worker="pods@x", boot="b", place="p", executor="kubernetes", queues=("kubernetes",), visibility_timeout=60.0
    )
    heartbeat.beat(one, says)
    yield
    heartbeat.end(one, says)
    one.close()


def header(client: redis.Redis, queue: str) -> dict:
    return json.loads(client.rpop(queue))["headers"]["cellwork"]


def test_it_sees_how_long_a_queue_is_how_old_its_oldest_message_and_who_is_served(make, client, shared_worker):
    app = make()
    app.conf.task_default_queue = "crowded"
    traffic = Traffic(app, "crowded")
    assert (traffic.look().waiting, traffic.look().oldest) == (0, None)
    before = time.time()
    for _ in range(3):
        app.send_task("shop.tasks.echo", (1,))
    sent = time.time()
    wait_until(lambda: time.time() - sent > 0.2, what="the messages to be that old")
    seen = traffic.look()
    assert seen.waiting == 3
    assert 0.2 <= seen.oldest <= time.time() - before
    assert "docker" in seen.served
    client.rpush("crowded", b"no message at all")
    assert traffic.look().oldest is None
    traffic.close()


def test_messages_of_every_priority_and_under_a_prefix_are_counted(make, client):
    app = make(unserved="off")
    app.conf.update(task_default_queue="crowded", broker_transport_options={"global_keyprefix": "own:"})
    for priority in (0, 6, 9):
        app.send_task("shop.tasks.echo", (1,), priority=priority)
    traffic = Traffic(app, "crowded")
    seen = traffic.look()
    assert seen.waiting == 3
    assert seen.oldest < 5
    traffic.close()
    client.delete(*client.keys("own:*"))


@pytest.mark.parametrize(
    ("limit", "reason"),
    [({"overflow_length": 2}, "messages wait > 2"), ({"overflow_seconds": 0.2}, "the oldest message waits ")],
)
def test_a_crowded_queue_overflows_to_pods_once_somebody_serves_them(make, client, pods_are_served, limit, reason):
    app = make(unserved="off", **limit)
    app.conf.task_default_queue = "crowded"
    for _ in range(3):
        app.send_task("shop.tasks.echo", (1,))

    def overflowed() -> bool:
        app.send_task("shop.tasks.echo", (1,))
        return bool(client.llen("kubernetes"))

    wait_until(overflowed, timeout=10, what="a look at the queue, and a task that overflows")
    route = header(client, "kubernetes")["route"]
    assert route["executor"] == "kubernetes"
    assert route["reason"].startswith("overflow: ")
    assert reason in route["reason"]
    assert client.llen("crowded") >= 3, "those that were sent before stay"


def test_a_task_that_nobody_would_take_is_told_of_although_sending_does_not_wait_to_know(make, client, caplog):
    app = make()
    app.conf.task_default_queue = "crowded"
    app.send_task("shop.tasks.echo", (1,))
    wait_until(lambda: "goes to queue 'crowded'" in caplog.text, what="the warning")
    assert "no worker that lives takes from it: it waits until one comes; start one with -Q crowded" in caplog.text
    assert client.llen("crowded") == 1


def test_a_worker_that_has_just_come_is_no_reason_to_refuse(make, client, request):
    app = make(unserved="error")
    with pytest.raises(NoWorker, match="nothing was sent"):
        app.send_task("shop.tasks.echo", (1,), queue="kubernetes")
    request.getfixturevalue("pods_are_served")
    app.send_task("shop.tasks.echo", (1,), queue="kubernetes")
    assert client.llen("kubernetes") == 1


def test_sending_does_not_wait_for_a_look_at_a_broker_that_does_not_answer(make, monkeypatch):
    monkeypatch.delenv("CELERY_BROKER_URL")  # it would win
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(20)
        app = make(overflow_length=1)
        app.conf.broker_url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        traffic = Traffic(app, "crowded")
        assert traffic.now() is None
        # The look is under way, and has not come back: nobody answers there.
        connection, _ = silent.accept()
        assert traffic.now() is None
        connection.close()


def test_a_look_at_a_broker_that_is_not_there_is_a_warning_and_no_thread_that_dies(make, monkeypatch, caplog):
    monkeypatch.delenv("CELERY_BROKER_URL")
    with socket.create_server(("127.0.0.1", 0)) as unheard:
        port = unheard.getsockname()[1]
    app = make(overflow_length=1)
    app.conf.broker_url = f"redis://127.0.0.1:{port}/0"
    assert Traffic(app, "crowded").now() is None
    wait_until(lambda: "routes without that" in caplog.text, what="the warning")


def test_cellwork_route_tells_where_a_task_would_go_and_sends_nothing(shop, client, shared_worker):
    def told(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cellwork", "route", "-A", "shop.app", *arguments]
        return subprocess.run(command, cwd=PROJECT, env={**os.environ, **env}, capture_output=True, text=True)

    plain = json.loads(told("shop.tasks.echo", "--json").stdout)
    assert (plain["executor"], plain["reason"], plain["served"], plain["known"]) == ("docker", "default", True, True)
    heavy = told("shop.tasks.echo", "-o", "executor=kubernetes")
    assert (
        heavy.stdout == "shop.tasks.echo → executor kubernetes, queue kubernetes: executor='kubernetes' in the call\n"
    )
    assert "no worker that lives takes from queue kubernetes" in heavy.stderr
    unknown = told("shop.tasks.nowhere", "-Q", "kubernetes", "--json")
    assert (json.loads(unknown.stdout)["queue"], json.loads(unknown.stdout)["known"]) == ("kubernetes", False)
    refused = told("shop.tasks.echo", "-o", "executor=kubernetes", CELLWORK_UNSERVED="error")
    assert refused.returncode == 1
    assert "nothing was sent" in refused.stderr
    wrong = told("shop.tasks.echo", "-o", "memory=lots")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1)
    assert client.llen("kubernetes") == 0
