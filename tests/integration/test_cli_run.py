"""``cellwork run`` and ``cellwork worker`` as a user types them."""

import json
import os
import subprocess
import sys

import pytest
from conftest import PROJECT
from waiting import wait_until

from cellwork import adhoc
from cellwork.errors import PolicyViolation


def run(*words: str, as_celery: bool = False, **env: str) -> "subprocess.CompletedProcess[str]":
    program = ["celery", "-A", "shop.app", "cellwork"] if as_celery else ["cellwork"]
    return subprocess.run(
        [sys.executable, "-m", *program, "run", *words],
        cwd=PROJECT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_a_task_is_sent_and_its_result_printed(tasks):
    ran = run("shop.tasks:add", "2", "3")
    assert (ran.returncode, ran.stdout) == (0, "5\n")
    ran = run("shop.tasks:echo", "plain words", as_celery=True)
    assert (ran.returncode, ran.stdout) == (0, "plain words\n")
    ran = run("shop.tasks:echo", '{"a": [1]}', "--json")
    told = json.loads(ran.stdout)
    assert (told["state"], told["status"], told["result"]) == ("SUCCESS", 0, {"a": [1]})


def test_what_a_task_prints_is_shown_on_standard_error(shop, shared_worker):
    ran = run("shop.talk:talks")
    assert (ran.returncode, ran.stdout) == (0, "said\n")
    assert "one\n" in ran.stderr
    assert "an open end\n" in ran.stderr


def test_a_commands_exit_status_is_passed_on(commands):
    ran = run("shop.commands:status", "3")
    assert ran.returncode == 3
    assert "ended with status 3" in ran.stderr


def test_what_is_no_task_and_a_missing_broker_are_one_clear_line(shop):
    ran = run("shop.tasks:nothing")
    assert (ran.returncode, len(ran.stderr.splitlines())) == (1, 1)
    ran = run("shop.tasks:logger")
    assert (ran.returncode, "is no task" in ran.stderr) == (1, True)
    assert run("alpine").returncode == 2
    ran = run("shop.tasks:add", "1", "2", CELERY_BROKER_URL="redis://:hush@127.0.0.1:1/0")
    assert (ran.returncode, ran.stderr) == (
        1,
        "Error: the broker at 127.0.0.1:1/0 (broker_url) does not answer; start it (cellwork up starts one here), or "
        "correct the URL\n",
    )


def test_a_command_runs_in_any_image_with_its_streams_and_status(shop, shared_worker, installation):
    words = ("cellwork/busybox:base", "-o", "pull=never", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    for ran in (
        run(*words, CELLWORK_INSTALLATION=installation),  # without an application: broker and settings are enough
        run("-A", "shop.app", *words),
        run(*words, as_celery=True),
    ):
        assert (ran.returncode, ran.stdout, ran.stderr) == (7, "out\n", "err\n")
    ran = run("-A", "shop.app", "cellwork/busybox:base", "--json", "--", "echo", "--json", "5")
    assert json.loads(ran.stdout)["result"] == "--json 5\n"
    ran = run("-A", "shop.app", "nobody/has:this", "--", "true")
    assert (ran.returncode, "image nobody/has:this is not on the engine" in ran.stderr) == (1, True)


def test_a_negative_number_is_an_argument(tasks):
    assert run("shop.tasks:add", "-5", "3").stdout == "-2\n"


def test_run_says_that_it_waits_where_no_worker_lives(shop, broker):
    elsewhere = {"CELLWORK_INSTALLATION": "nobodys", "CELERY_BROKER_URL": f"{broker}/7"}
    command = [sys.executable, "-m", "cellwork", "run", "alpine:3", "--", "true"]
    with subprocess.Popen(command, cwd=PROJECT, env={**os.environ, **elsewhere}, stderr=subprocess.PIPE) as waits:
        assert waits.stderr is not None
        assert b"no worker of installation 'nobodys' lives: this waits" in waits.stderr.readline()
        waits.kill()


def test_a_worker_whose_sandboxes_isolate_nothing_takes_nobodys_commands(shop, start_worker):
    worker = start_worker("-c", "1", "-Q", "bare", name="bare", CELLWORK_EXECUTOR="process")
    sent = adhoc.task(shop.app.app).apply_async(("id",), image="cellwork/busybox:base", queue="bare")
    with pytest.raises(PolicyViolation, match="takes no commands that its app does not declare"):
        sent.get(timeout=60)
    worker.stop()


def test_cellwork_worker_is_a_celery_worker_with_the_right_queues(shop, broker, tmp_path):
    command = [sys.executable, "-m", "celery", "-A", "shop.app", "cellwork", "worker", "-c", "1", "--json"]
    log = tmp_path / "worker.log"
    elsewhere = {"CELERY_BROKER_URL": f"{broker}/6", "SHOP_INSTALLATION": "tests-front"}
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [*command, "--", "-n", "front@test"], cwd=PROJECT, env={**os.environ, **elsewhere}, stdout=out, stderr=out
        ) as worker,
    ):
        wait_until(lambda: "front@test ready." in log.read_text(), timeout=30, what="the worker")
        ran = run("shop.tasks:add", "20", "22", **elsewhere)
        assert (ran.returncode, ran.stdout) == (0, "42\n")
        worker.terminate()
        assert worker.wait(30) == 0
    told = json.loads(next(line for line in log.read_text().splitlines() if line.startswith('{"executor"')))
    assert (told["executor"], told["queues"], told["slots"]) == ("docker", ["docker"], 1)
    assert told["command"][-2:] == ["-n", "front@test"]


@pytest.mark.parametrize("words", ["worker", "ps", "reap"])
def test_a_broker_that_refuses_the_password_is_one_line(shop, broker, words):
    url = broker.replace("redis://", "redis://nobody:wrong@") + "/0"
    command = [sys.executable, "-m", "cellwork", words, "-A", "shop.app"]
    env = {**os.environ, "CELERY_BROKER_URL": url}
    ran = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1), ran.stderr
    where = broker.removeprefix("redis://")
    assert f"the broker at {where}/0 (broker_url) answers, and refuses: invalid username" in ran.stderr
