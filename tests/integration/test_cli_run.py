"""``cellwork run MODULE:TASK`` as a user types it."""

import json
import os
import subprocess
import sys

from conftest import PROJECT


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
        "Error: the broker at 127.0.0.1:1/0 (broker_url) does not answer; start it: cellwork up\n",
    )
