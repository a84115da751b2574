"""Leases: a task that runs is not delivered again, one whose worker has died is, and it never runs twice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery
from chaos.way import RedisWay
from conftest import PROJECT
from waiting import wait_until

from cellwork import configure
from cellwork.broker import Broker
from cellwork_worker.fencing import DONE, Tokens
from cellwork_worker.job import Job
from cellwork_worker.lease import Leases

#: Seconds; the sandboxes below run for longer.
VISIBILITY = 4
TIMEOUT = 60


@pytest.fixture
def ledger(tmp_path_factory) -> Path:
    """A folder that the sandboxes write to: one line for every body that starts, one for every body that ends."""
    folder = tmp_path_factory.mktemp("ledger")
    folder.chmod(0o777)
    return folder


@pytest.fixture
def start(start_worker, ledger) -> Iterator[Callable]:
    """Start a worker with a short timeout, whose policy allows the ledger; all are ended afterwards."""
    started = []

    def start(name: str, *arguments: str, queue: str = "leases", **env: str):
        worker = start_worker(
            *(arguments or ("-c", "2")),
            "-Q",
            queue,
            name=name,
            CELLWORK_VISIBILITY_TIMEOUT=str(VISIBILITY),
            SHOP_VOLUMES=str(ledger),
            **env,
        )
        started.append(worker)
        return worker

    yield start
    for worker in started:
        if worker.process.poll() is None:
            worker.signal(signal.SIGCONT)
        worker.stop()


@pytest.fixture
def client(broker, shop) -> redis.Redis:
    return redis.Redis.from_url(f"{broker}/0")


@pytest.fixture
def send(shop, ledger):
    """Send a task that writes to the ledger when it starts and when it ends."""

    def send(seconds: float, **options):
        options = {"queue": "leases", "volumes": [f"{ledger}:/ledger"], **options}
        return shop.tasks.entered.apply_async((seconds,), **options)

    return send


def lines(ledger: Path, what: str) -> int:
    file = ledger / "ledger"
    return file.read_text().count(what) if file.exists() else 0


def started(ledger: Path) -> int:
    return lines(ledger, "start")


def test_a_task_that_outlives_the_visibility_timeout_runs_once(start, send, ledger):
    worker = start("long")
    result = send(2.5 * VISIBILITY)
    assert result.get(timeout=TIMEOUT) == 2.5 * VISIBILITY
    assert worker.text.count(f"[{result.id}] received") == 1
    assert started(ledger) == 1


def test_tasks_that_wait_in_a_worker_for_their_time_or_a_slot_are_not_delivered_again(start, send, ledger, client):
    worker = start("reserves", "-c", "1", "--prefetch-multiplier=4")
    first, second = send(1.5 * VISIBILITY), send(0)
    later = send(0, countdown=2 * VISIBILITY)
    for result in (first, second, later):
        result.get(timeout=TIMEOUT)
        assert worker.text.count(f"[{result.id}] received") == 1
    assert started(ledger) == 3
    wait_until(lambda: not client.exists("unacked"), what="all to be acknowledged")


def test_a_dead_workers_task_goes_on_in_its_sandbox_under_another_worker(start, send, ledger, shop):
    first = start("dies")
    # Up before that one dies: what counts is how soon the message comes, not how long a worker takes to start.
    second = start("takes", queue="not-yet")
    result = send(2 * VISIBILITY)
    wait_until(lambda: started(ledger), timeout=TIMEOUT, what="the body to run")
    first.signal(signal.SIGKILL)
    killed = time.monotonic()
    shop.app.app.control.add_consumer("leases", destination=[second.name])
    wait_until(lambda: f"[{result.id}] received" in second.text, timeout=TIMEOUT, what="the second delivery")
    assert time.monotonic() - killed < 1.5 * VISIBILITY
    assert result.get(timeout=TIMEOUT) == 2 * VISIBILITY
    assert (started(ledger), lines(ledger, "end")) == (1, 1)


def test_a_worker_that_died_with_the_outcome_unread_leaves_it_to_the_next(start, send, ledger):
    first = start("stopped-early")
    result = send(1)
    wait_until(lambda: started(ledger), timeout=TIMEOUT, what="the body to run")
    first.signal(signal.SIGSTOP)
    wait_until(lambda: lines(ledger, "end"), timeout=TIMEOUT, what="the body to end")
    first.signal(signal.SIGKILL)
    first.wait()
    start("reads")
    assert result.get(timeout=TIMEOUT) == 1
    assert started(ledger) == 1


@pytest.fixture(params=["stopped", "without a network"])
def zombie(request, start, broker):
    """A worker, and what takes it away and brings it back."""
    if request.param == "stopped":
        worker = start("zombie", "-c", "1")
        yield worker, lambda: worker.signal(signal.SIGSTOP), lambda: worker.signal(signal.SIGCONT)
        return
    way = RedisWay(int(broker.rpartition(":")[2]))
    yield (
        start("zombie", "-c", "1", CELERY_BROKER_URL=f"{way.url}/0", CELERY_RESULT_BACKEND=f"{way.url}/1"),
        way.block,
        way.unblock,
    )
    way.unblock()


def test_a_worker_that_comes_back_too_late_is_fenced_and_its_sandbox_left_to_the_other(
    zombie, start, send, ledger, client
):
    worker, leave, come_back = zombie
    result = send(3 * VISIBILITY)
    wait_until(lambda: started(ledger), timeout=TIMEOUT, what="the body to run")
    leave()
    (token,) = client.keys(f"cellwork:*:token:cellwork-{result.id}-0")
    before = client.hget(token, "owner")
    start("other")
    wait_until(lambda: client.hget(token, "owner") != before, timeout=TIMEOUT, what="the other to take it over")
    come_back()
    wait_until(lambda: "was taken over by another worker" in worker.text, timeout=TIMEOUT, what="it to be fenced")
    assert "is left to that one" in worker.text
    assert result.get(timeout=TIMEOUT) == 3 * VISIBILITY
    assert "succeeded" not in worker.text
    assert started(ledger) == 1
    wait_until(lambda: not worker.inspect("active"), timeout=TIMEOUT, what="the zombie's slot to be free")
    wait_until(lambda: not client.exists("unacked"), timeout=TIMEOUT, what="the message to be acknowledged")


def test_a_broken_connection_delivers_again_and_the_running_one_goes_on(start, send, ledger, client):
    worker = start("cut")
    result = send(1.5 * VISIBILITY)
    wait_until(lambda: started(ledger), timeout=TIMEOUT, what="the body to run")
    client.client_kill_filter(_type="normal", skipme=True)
    wait_until(lambda: "was delivered again while it runs here" in worker.text, timeout=TIMEOUT, what="a delivery")
    assert result.get(timeout=TIMEOUT) == 1.5 * VISIBILITY
    assert started(ledger) == 1
    wait_until(lambda: not client.exists("unacked"), timeout=2 * VISIBILITY, what="the message to be acknowledged")


def test_a_second_copy_of_a_message_does_not_run(start, send, ledger, client, shop):
    start("copies")
    result = send(VISIBILITY)
    wait_until(lambda: started(ledger), timeout=TIMEOUT, what="the body to run")
    send(VISIBILITY, task_id=result.id)
    assert result.get(timeout=TIMEOUT) == VISIBILITY
    send(VISIBILITY, task_id=result.id)
    wait_until(lambda: not client.exists("unacked", "leases"), timeout=3 * VISIBILITY, what="all to be acknowledged")
    assert started(ledger) == 1


def test_a_task_whose_outcome_was_stored_but_not_acknowledged_is_only_acknowledged(start, send, ledger, client, shop):
    worker = start("again")
    result = send(0)
    result.get(timeout=TIMEOUT)
    wait_until(lambda: not client.exists("unacked"), what="the message to be acknowledged")
    for key in client.keys("cellwork:*:token:*"):
        # As a worker leaves it that dies before it can say that the task is done.
        client.delete(key)
        client.hset(key, mapping={"owner": "dead", "until": "0", "deliveries": "1", "history": "dead@test 1\n"})
    send(0, task_id=result.id)
    wait_until(lambda: "has its outcome already" in worker.text, timeout=TIMEOUT, what="the second copy")
    assert started(ledger) == 1


@pytest.mark.parametrize("kind", ["link", "link_error"])
def test_the_callbacks_of_a_task_that_ran_again_run_once(kind, start, ledger, client, broker, shop):
    """As after the death of a worker that had sent them, and had not stored the outcome."""
    start("calls")
    callback = shop.tasks.called.si("called back").set(queue="leases", volumes=[f"{ledger}:/ledger"])
    task, arguments = (shop.tasks.add, (1, 2)) if kind == "link" else (shop.tasks.fail_builtin, ("linked",))
    first = task.apply_async(arguments, queue="leases", **{kind: callback})
    wait_until(lambda: lines(ledger, "end"), timeout=TIMEOUT, what="the callback to run")
    wait_until(lambda: not client.exists("unacked"), what="all to be acknowledged")
    redis.Redis.from_url(f"{broker}/1").delete(f"celery-task-meta-{first.id}")
    client.delete(*client.keys(f"cellwork:*:token:cellwork-{first.id}-0"))
    second = task.apply_async(arguments, queue="leases", task_id=first.id, **{kind: callback})
    second.get(timeout=TIMEOUT, propagate=False)
    wait_until(lambda: not client.exists("unacked", "leases"), what="all to be acknowledged")
    assert started(ledger) == 1


def test_the_key_prefix_of_the_transport_is_respected(start, ledger, client, installation):
    app = configure(Celery("prefixed", set_as_current=False), installation=installation)
    app.conf.broker_transport_options = {**app.conf.broker_transport_options, "global_keyprefix": "mine:"}
    worker = start("prefixed", SHOP_KEYPREFIX="mine:")
    seconds = 1.5 * VISIBILITY
    result = app.send_task("shop.tasks.entered", (seconds,), queue="leases", volumes=[f"{ledger}:/ledger"])
    assert result.get(timeout=TIMEOUT) == seconds
    assert worker.text.count(f"[{result.id}] received") == 1
    assert client.keys("mine:cellwork:*:token:*")
    app.close()


def test_a_claim_costs_one_round_trip_and_a_confirmation_none(client, shop):
    broker = Broker(shop.app.app)
    tokens = Tokens(broker, "me@test")
    leases = Leases(broker, tokens, "boot", lambda job: "place", lambda: None)

    def asked() -> int:
        return int(client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])

    tokens.claim("first", "me")  # now the script is known there
    for number in range(3):
        job = Job(id="x", sandbox=f"cellwork-{number}-0", target=id, args=(), callbacks=None)
        before = asked()
        assert leases.claim(job).answer == "mine"
        leases.confirm(job)
        assert asked() - before == 1
    assert leases.claim(Job(id="x", sandbox="cellwork-2-0", target=id, args=(), callbacks=None)).answer == "held"
    leases.finish_now(job)
    assert leases.claim(Job(id="x", sandbox="cellwork-2-0", target=id, args=(), callbacks=None)).answer == "done"
    broker.close()


def test_a_token_whose_task_is_done_cannot_be_renewed_by_one_that_was_away(client, shop):
    broker = Broker(shop.app.app)
    tokens = Tokens(broker, "me@test")
    attempt = "cellwork-away-0"
    tokens.claim(attempt, "away.1@here")
    client.hset(tokens.key(attempt), "until", 0)
    assert tokens.claim(attempt, "other.1@here").answer == "mine"
    assert tokens.renew({attempt: "away.1@here"}) == {attempt: "other.1@here"}
    tokens.finish(attempt, "other.1@here")
    assert tokens.renew({attempt: "away.1@here"}) == {attempt: DONE}
    assert tokens.claim(attempt, "third.1@here").answer == "done"
    broker.close()


def test_doctor_tells_of_workers_with_another_timeout(start, shop, shared_worker):
    def told(**env: str):
        command = [sys.executable, "-m", "cellwork", "doctor", "-A", "shop.app", "--json"]
        done = subprocess.run(command, cwd=PROJECT, env={**os.environ, **env}, capture_output=True, text=True)
        return next(row for row in json.loads(done.stdout) if row["what"] == "workers")

    assert told()["ok"]
    other = start("differs")
    found = told()
    assert not found["ok"]
    assert other.name in found["detail"]
    assert shared_worker.name not in found["detail"]


def test_what_is_no_message_or_no_plain_text_stops_no_worker(start, shop, client):
    worker = start("reads-on")
    odd = shop.tasks.echo.apply_async(("\udcff \\ud800 }{",), queue="leases", headers={"properties": {"a": "\udcff"}})
    for raw in (b"\xff\xfe", b"{}", b'{"properties": 7}', b'{"properties": {"delivery_info": null}}', b"[" * 100_000):
        client.lpush("leases", raw)
    assert shop.tasks.echo.apply_async(("still here",), queue="leases").get(timeout=TIMEOUT) == "still here"
    assert client.llen("leases.cellwork-unreadable") == 5
    assert worker.text.count("had something that is no message") == 5
    odd.get(timeout=TIMEOUT, propagate=False)
    assert odd.state in ("SUCCESS", "FAILURE")
    wait_until(lambda: not client.exists("unacked", "leases"), what="all to be acknowledged")
    client.delete("leases.cellwork-unreadable")
