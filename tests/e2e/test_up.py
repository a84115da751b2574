"""``cellwork up``: broker, worker and Flower from one command, and all of them gone after Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import urllib.request

import psutil
import pytest
import redis
from conftest import PROJECT
from ports import free_port
from waiting import wait_until

UP = [sys.executable, "-m", "cellwork", "up"]


def ask(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return int(answer.status)
    except OSError:
        return 0


@pytest.mark.parametrize("executor", ["docker", "process"])
def test_up_starts_everything_and_ctrl_c_stops_it(engine, tmp_path, executor):
    port, flower = free_port(), free_port()
    env = {
        **os.environ,
        "CELERY_BROKER_URL": f"redis://127.0.0.1:{port}/0",
        "CELERY_RESULT_BACKEND": f"redis://127.0.0.1:{port}/1",
        "SHOP_INSTALLATION": f"tests-up-{port}",
    }
    log = tmp_path / "up.log"
    with log.open("wb") as out:
        up = subprocess.Popen(
            [*UP, "-A", "shop.app", "-c", "1", "--executor", executor, "--flower-port", str(flower), "--json"],
            cwd=PROJECT,
            env=env,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until(lambda: " ready." in log.read_text() or up.poll() is not None, timeout=60, what="the worker")
        assert up.poll() is None, log.read_text()
        wait_until(lambda: ask(f"http://127.0.0.1:{flower}/") == 200, timeout=60, what="Flower")
        program = "import shop.tasks as t; print(t.add.delay(20, 22).get(timeout=60))"
        sent = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, env=env, capture_output=True, text=True)
        assert sent.stdout == "42\n", sent.stderr
        children = psutil.Process(up.pid).children(recursive=True)
        assert len(children) >= 3, "Valkey, worker and Flower"
    finally:
        # A terminal sends Ctrl-C to all that were started in it.
        os.killpg(up.pid, signal.SIGINT)
        assert up.wait(60) == 0, log.read_text()
    assert not [child for child in children if child.is_running()]
    text = log.read_text()
    told = json.loads(next(line for line in text.splitlines() if line.startswith('{"broker"')))
    assert told["broker"] == f"embedded Valkey at 127.0.0.1:{port}, in memory"
    assert told["monitor"] == f"http://127.0.0.1:{flower}"
    assert ("isolates nothing" in text) == (executor == "process")
    left = engine.api.containers(all=True, filters={"label": f"cellwork.installation=tests-up-{port}"})
    assert left == []


def test_up_uses_a_broker_that_answers_and_leaves_it_running(broker, tmp_path):
    env = {**os.environ, "CELERY_BROKER_URL": f"{broker}/5", "CELERY_RESULT_BACKEND": f"{broker}/6"}
    env["SHOP_INSTALLATION"] = f"tests-up-{os.getpid()}"
    log = tmp_path / "up.log"
    command = [*UP, "-A", "shop.app", "-c", "1", "--executor", "process", "--no-flower"]
    with log.open("wb") as out:
        up = subprocess.Popen(
            command, cwd=PROJECT, env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        wait_until(lambda: " ready." in log.read_text() or up.poll() is not None, timeout=60, what="the worker")
    finally:
        os.killpg(up.pid, signal.SIGINT)
        assert up.wait(60) == 0, log.read_text()
    assert f"broker    Redis at {broker.removeprefix('redis://')}" in log.read_text()
    assert redis.Redis.from_url(broker).ping()


def test_up_names_a_broker_that_is_configured_but_does_not_answer():
    env = {**os.environ, "CELERY_BROKER_URL": "redis://redis.invalid:6379/0"}
    command = [*UP, "-A", "shop.app", "--executor", "process"]
    ran = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 1
    assert "the broker at redis.invalid:6379 (broker_url) does not answer" in ran.stderr


def test_up_without_an_engine_says_what_to_install_and_what_works_without():
    env = {**os.environ, "DOCKER_HOST": "unix:///nowhere.sock"}
    command = [*UP, "-A", "shop.app"]
    ran = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 1
    assert "apt-get install docker.io" in ran.stderr
    assert "--executor process" in ran.stderr


def test_up_with_an_app_that_is_not_there_or_not_configured_says_so(tmp_path):
    (tmp_path / "plain.py").write_text("from celery import Celery\napp = Celery('plain')\n")
    for name, says in (("nowhere", "no Celery application there"), ("plain", "cellwork.configure")):
        command = [*UP, "-A", name]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode == 1
        assert says in ran.stderr
