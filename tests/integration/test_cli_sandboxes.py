"""The commands that look into running sandboxes, as a user types them."""

import importlib
import json
import os
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from conftest import PROJECT
from waiting import wait_until

TIMEOUT = 60
CELLWORK = [sys.executable, "-m", "cellwork"]
CELERY = [sys.executable, "-m", "celery", "-A", "shop.app", "cellwork"]


def run(*words: str, as_celery: bool = False, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    command = [*CELERY, *words] if as_celery else [*CELLWORK, words[0], "-A", "shop.app", *words[1:]]
    environment = {**os.environ, "COLUMNS": "250", **(env or {})}
    return subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def good(*words: str, **options: bool) -> str:
    ran = run(*words, **options)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture
def sleeper(shop, shared_worker, containers):
    """A task that runs, until the test is over."""
    result = shop.tasks.sleep.delay(300)
    wait_until(lambda: any(c["State"] == "running" for c in containers()), timeout=TIMEOUT, what="its container")
    wait_until(lambda: busy(result.id), timeout=TIMEOUT, what="its worker to know of it")
    yield result
    result.revoke(terminate=True, signal="SIGKILL")


def busy(task_id: str) -> bool:
    return any(row["task_id"] == task_id and row["status"] == "running" for row in json.loads(good("ps", "--json")))


def test_ps_lists_what_runs_where_with_live_figures(sleeper):
    (row,) = json.loads(good("ps", "--json"))
    assert row["task"] == "shop.tasks.sleep"
    assert row["task_id"] == sleeper.id
    assert row["sandbox"] == f"cellwork-{sleeper.id}-0"
    assert (row["executor"], row["image"], row["worker"]) == ("docker", "cellwork/python:base", "shared@test")
    assert (row["status"], row["host"]) == ("running", socket.gethostname())
    assert 0 < row["seconds"] < 300
    assert 0 <= row["cpu_percent"] < 400
    assert 1 << 20 < row["memory_bytes"] < row["memory_limit_bytes"] == 128 << 20
    table = good("ps", as_celery=True)
    assert sleeper.id in table
    assert "128.0 MiB" in table


def test_ps_of_an_idle_worker_is_empty(shop, shared_worker):
    assert json.loads(good("ps", "--json")) == []


def test_ps_without_a_worker_and_without_a_broker_is_one_clear_line(shop):
    ran = run("ps", env={"CELERY_BROKER_URL": os.environ["CELERY_BROKER_URL"].removesuffix("/0") + "/9"})
    assert (ran.returncode, ran.stderr) == (
        1,
        "Error: no worker answered within 1 s; start one: cellwork worker -A …, or cellwork up\n",
    )
    ran = run("ps", env={"CELERY_BROKER_URL": "redis://:hush@127.0.0.1:1/0"})
    assert (ran.returncode, ran.stderr) == (
        1,
        "Error: the broker at 127.0.0.1:1/0 (broker_url) does not answer; start it (cellwork up starts one here), or "
        "correct the URL\n",
    )


def completed(line: str, begun: str = "") -> list[str]:
    """What TAB offers after these words, as a shell gets it."""
    words = {"COMP_WORDS": f"cellwork {line} {begun}", "COMP_CWORD": str(len(line.split()) + 1)}
    env = {**os.environ, **words, "_CELLWORK_COMPLETE": "bash_complete"}
    ran = subprocess.run(CELLWORK, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    return [one.partition(",")[2] for one in ran.stdout.splitlines() if one.startswith("plain,")]


def test_the_shell_completes_ids_of_what_runs_and_for_logs_of_what_ran(shop, sleeper):
    ended = shop.tasks.add.delay(1, 2)
    assert ended.get(timeout=TIMEOUT) == 3
    wait_until(lambda: ended.id in completed("logs -A shop.app"), timeout=TIMEOUT, what="its usage to be known")
    assert sleeper.id in completed("logs -A shop.app")
    assert completed("logs -A shop.app", sleeper.id[:8]) == [sleeper.id]
    assert completed("exec -A shop.app") == [sleeper.id]
    assert completed("cp -A shop.app", sleeper.id[:8]) == [f"{sleeper.id}:"]


@pytest.mark.parametrize("as_celery", [False, True])
def test_exec_runs_a_program_in_the_sandbox_and_gives_its_status(sleeper, as_celery):
    ran = run("exec", sleeper.id, "--", "sh", "-c", "id -u; exit 7", as_celery=as_celery)
    assert (ran.returncode, ran.stdout) == (7, "65534\n")
    ran = run("exec", "--json", sleeper.id, "--", "sh", "-c", "echo out; echo err >&2; exit 7", as_celery=as_celery)
    told = {"sandbox": f"cellwork-{sleeper.id}-0", "status": 7, "stdout": "out\n", "stderr": "err\n"}
    assert (ran.returncode, json.loads(ran.stdout)) == (7, told)


def test_exec_gives_a_shell_the_input_and_a_terminal(sleeper):
    command = [*CELLWORK, "exec", "-A", "shop.app", sleeper.id, "-i", "--", "sh"]
    ran = subprocess.run(command, cwd=PROJECT, input=b"echo $((6*7))\n", capture_output=True, timeout=60, check=False)
    assert ran.stdout == b"42\n"
    master, slave = os.openpty()
    command = [*CELLWORK, "exec", "-A", "shop.app", sleeper.id, "-it", "--", "sh", "-c", "test -t 0 && echo terminal"]
    subprocess.run(command, cwd=PROJECT, stdin=slave, stdout=slave, stderr=slave, timeout=60, check=True)
    os.close(slave)
    assert os.read(master, 100).strip() == b"terminal"
    os.close(master)


def test_exec_says_so_where_nothing_runs_and_where_no_engine_answers(shop, shared_worker, sleeper):
    ran = run("exec", "no-such-task", "--", "sh")
    assert ran.returncode == 1
    assert ran.stderr == "Error: no sandbox of no-such-task runs: the task has not started, or has ended\n"
    ran = run("exec", sleeper.id, "--", "sh", env={"DOCKER_HOST": "unix:///nowhere.sock"})
    assert ran.returncode == 1
    assert ran.stderr.count("\n") == 1
    assert "docker: Cannot connect to the Docker daemon at unix:///nowhere.sock" in ran.stderr


def test_exec_names_the_host_of_a_sandbox_that_is_no_container_here(shop, start_worker):
    worker = start_worker("-c", "1", "-Q", "plain", name="plain", CELLWORK_EXECUTOR="process")
    result = shop.tasks.sleep.apply_async((300,), queue="plain")
    wait_until(lambda: busy(result.id), timeout=TIMEOUT, what="its worker to know of it")
    ran = run("exec", result.id, "--", "sh")
    result.revoke(terminate=True, signal="SIGKILL")
    assert ran.returncode == 1
    assert f"runs on worker plain@test, host {socket.gethostname()}, and is no container but a process" in ran.stderr
    worker.stop()


def test_cp_copies_files_and_folders_both_ways_where_the_task_can_write(sleeper, tmp_path: Path):
    (tmp_path / "in.txt").write_text("täxt")
    good("cp", str(tmp_path / "in.txt"), f"{sleeper.id}:/tmp/copy.txt")
    copied = json.loads(good("cp", "--json", str(tmp_path / "in.txt"), f"{sleeper.id}:/tmp/"))
    assert copied == {"source": str(tmp_path / "in.txt"), "target": f"{sleeper.id}:/tmp/"}
    assert good("exec", sleeper.id, "--", "cat", "/tmp/copy.txt", "/tmp/in.txt") == "täxttäxt"
    good("cp", f"{sleeper.id}:/tmp/copy.txt", str(tmp_path / "back.txt"), as_celery=True)
    assert (tmp_path / "back.txt").read_text() == "täxt"
    good(
        "exec", sleeper.id, "--", "sh", "-c", "mkdir -p /tmp/many/deep; echo 1 > /tmp/many/a; echo 2 > /tmp/many/deep/b"
    )
    good("cp", f"{sleeper.id}:/tmp/many", str(tmp_path))
    assert (tmp_path / "many" / "deep" / "b").read_text() == "2\n"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], "nothing temporary is left"


def test_cp_says_what_is_missing(sleeper, tmp_path: Path):
    ran = run("cp", f"{sleeper.id}:/tmp/nowhere", str(tmp_path))
    assert ran.returncode == 1
    assert ran.stderr.count("\n") == 1
    assert "tar: " in ran.stderr
    ran = run("cp", str(tmp_path), f"{sleeper.id}:/etc/here")
    assert (ran.returncode, "Read-only" in ran.stderr) == (1, True)
    assert run("cp", "here", "there").returncode == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("member", ["../outside", "/etc/outside"])
def test_cp_unpacks_nothing_outside_of_its_folder(tmp_path: Path, member):
    hostile = tmp_path / "hostile.tar"
    with tarfile.open(hostile, "w") as archive:
        archive.addfile(tarfile.TarInfo(member))
    inner = tmp_path / "inner"
    inner.mkdir()
    with hostile.open("rb") as stream:
        refused = importlib.import_module("cellwork.cli.cp")._unpack(stream, inner)
    assert (refused is None) == member.startswith("/"), "a leading slash is taken away"
    assert not (tmp_path / "outside").exists()
    assert not Path("/etc/outside").exists()


def test_logs_shows_escape_sequences_instead_of_sending_them(shop, shared_worker):
    result = shop.talk.writes_escapes.delay()
    shown = good("logs", result.id, "-f")
    assert shown == "\\x1b[2J\\x1b]0;owned\\x07 \\xff\n"
    (line,) = [json.loads(text) for text in good("logs", result.id, "--json").splitlines()]
    assert (line["stream"], line["attempt"], line["text"][0]) == ("stdout", 0, "\x1b")
    assert "\x1b" not in good("logs", result.id, "--json")


def test_logs_keeps_errors_apart_and_knows_times(shop, shared_worker):
    result = shop.talk.talks.delay()
    ran = run("logs", result.id, "--follow", as_celery=True)
    assert ran.stdout == "one\nthree\nan open end\n"
    assert ran.stderr.startswith("two\n")
    assert good("logs", result.id, "--timestamps").splitlines()[0][10] == "T"
    assert good("logs", result.id, "--since", "10m") == ran.stdout
    assert good("logs", result.id, "--since", "2100-01-01T00:00:00Z") == ""
    assert run("logs", result.id, "--since", "yesterday").returncode == 2


def test_logs_without_redis_is_one_clear_line(shop):
    ran = run("logs", "some-id", env={"CELERY_RESULT_BACKEND": "redis://127.0.0.1:1/0"}, as_celery=True)
    assert ran.returncode == 1
    assert ran.stderr.count("\n") == 1
    assert "cannot read the output of task some-id: Redis says:" in ran.stderr
    assert "Start it, or correct its URL (result_backend)" in ran.stderr
