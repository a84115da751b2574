"""Secrets reach the body, and nobody else."""

import json

import pytest
from waiting import wait_until

from cellwork import logs
from cellwork.errors import InvalidSpec

TIMEOUT = 60
VALUE = "hunter2-correct-horse"


@pytest.fixture(scope="module")
def secret_worker(start_worker, tmp_path_factory):
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "FROM_FILE").write_text(VALUE)
    env = {"CELLWORK_SECRETS_DIR": str(folder), "CELLWORK_SECRET_DB_PASSWORD": VALUE}
    worker = start_worker("-c", "2", "-Q", "secret", "--loglevel=DEBUG", name="secret", **env)
    yield worker
    worker.stop()


def test_the_body_has_it_and_its_output_result_and_the_workers_log_do_not(shop, secret_worker):
    result = shop.secret.tells.apply_async(queue="secret")
    assert result.get(timeout=TIMEOUT) == {"length": len(VALUE), "at import": True, "value": "[redacted]"}
    lines = [(line.stream, line.text) for line in logs(result.id, app=result.app)]
    assert sorted(lines) == [("stderr", "err [redacted]"), ("stdout", "out [redacted]")]
    assert VALUE not in secret_worker.text


def test_an_error_is_told_without_it(shop, secret_worker):
    result = shop.secret.raises.apply_async(queue="secret")
    error = result.get(timeout=TIMEOUT, propagate=False)
    assert str(error) == "cannot connect with [redacted]"
    assert VALUE not in str(result.traceback)


def test_neither_the_message_nor_docker_inspect_shows_it(shop, secret_worker, containers, engine):
    result = shop.secret.waits.apply_async((300,), queue="secret")
    wait_until(lambda: any(c["State"] == "running" for c in containers()), timeout=TIMEOUT, what="its container")
    (container,) = containers()
    assert VALUE not in json.dumps(engine.api.inspect_container(container["Id"]))
    client = shop.app.app.connection().channel().client
    assert VALUE.encode() not in b"".join(client.hvals("unacked"))
    result.revoke(terminate=True, signal="SIGKILL")


def test_a_secret_that_the_worker_does_not_have_fails_the_task_by_name(shop, secret_worker):
    error = shop.secret.misses.apply_async(queue="secret").get(timeout=TIMEOUT, propagate=False)
    assert isinstance(error, InvalidSpec)
    assert "no secret MISSING" in str(error)


@pytest.mark.parametrize(
    "options",
    [
        {"secrets": ("DB_PASSWORD",)},
        {"secret_env": {"A": "database/password"}},
        {"image": "cellwork/python:other"},
        {"python": "/tmp/python"},
    ],
)
def test_who_sends_a_message_chooses_neither_secrets_nor_who_gets_them(shop, secret_worker, options):
    task = shop.tasks.echo if options.keys() & {"secrets", "secret_env"} else shop.secret.tells
    args = ("x",) if task is shop.tasks.echo else ()
    error = task.apply_async(args, queue="secret", **options).get(timeout=TIMEOUT, propagate=False)
    assert isinstance(error, InvalidSpec)
    assert "cannot come with the call" in str(error)


def test_an_inline_task_is_refused_secrets(shop, secret_worker):
    error = shop.secret.tells.apply_async(queue="secret", executor="inline").get(timeout=TIMEOUT, propagate=False)
    assert isinstance(error, InvalidSpec)
    assert "only Python tasks in a sandbox get secrets" in str(error)
