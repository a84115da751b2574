"""The command line as a whole: its help, its completion, what it says where a service is missing."""

import io
import json
import os
import subprocess
import sys
import warnings

import click
import pytest
from celery import Celery
from celery.bin.celery import celery
from celery.exceptions import CDeprecationWarning
from click.testing import CliRunner
from rich.console import Console

from cellwork import adhoc, configure
from cellwork.cli import cellwork, completions
from cellwork.cli.ps import _TITLES as TITLES
from cellwork.cli.ps import table
from cellwork.cli.worker import queues_of
from cellwork.errors import PolicyViolation
from cellwork.spec import ContainerSpec
from cellwork_worker import policy
from cellwork_worker.executors.docker.host import clock_of, disk_of

ORDER = [
    "up",
    "demo",
    "doctor",
    "worker",
    "run",
    "ps",
    "logs",
    "exec",
    "cp",
    "route",
    "usage",
    "dead",
    "reap",
    "images",
    "top",
]

APP = """
from celery import Celery
from cellwork import configure

app = configure(Celery("kiosk"))

@app.task(shared=False)
def sells():
    pass
"""


def every_command(group: click.Group = cellwork, path: str = "") -> list[tuple[str, click.Command]]:
    found = []
    for name, command in group.commands.items():
        found += (
            every_command(command, f"{path}{name} ") if isinstance(command, click.Group) else [(path + name, command)]
        )
    return found


@pytest.fixture
def kiosk(tmp_path, monkeypatch):
    """An application in the current folder, whose broker does not answer, as does its engine."""
    (tmp_path / "kiosk.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "kiosk", raising=False)
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://:hush@127.0.0.1:1/0")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://:hush@127.0.0.1:1/1")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")


def typed(*words: str):
    return CliRunner().invoke(cellwork, words, prog_name="cellwork")


def typed_as_celerys(*words: str):
    """The same as ``celery -A kiosk cellwork …``."""
    return CliRunner().invoke(celery, ["-A", "kiosk", "cellwork", *words], prog_name="celery", standalone_mode=True)


def test_help_lists_the_commands_in_their_order_each_with_a_whole_line():
    shown = typed("--help").output
    lines = [line.split(maxsplit=1) for line in shown.splitlines() if line.startswith("  ")]
    assert [words[0] for words in lines if words[0] in ORDER] == ORDER == list(cellwork.commands)
    assert "..." not in shown.partition("Options:")[2]


@pytest.mark.parametrize(("name", "command"), every_command(), ids=lambda one: one if isinstance(one, str) else "")
def test_every_command_speaks_json_and_explains_itself(name, command):
    assert any("--json" in option.opts for option in command.params), name
    assert command.help
    assert typed(*name.split(), "--help").exit_code == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_completes_commands(shell):
    assert "_CELLWORK_COMPLETE" in typed("--completion", shell).output
    words = {"COMP_WORDS": "cellwork im", "COMP_CWORD": "im" if shell == "fish" else "1"}
    env = {**os.environ, **words, "_CELLWORK_COMPLETE": f"{shell}_complete"}
    ran = subprocess.run([sys.executable, "-m", "cellwork"], env=env, capture_output=True, text=True, timeout=30)
    assert "images" in ran.stdout, ran.stderr


def completed(line: str, begun: str = "") -> list[str]:
    """What TAB offers after these words, as a shell gets it."""
    words = {"COMP_WORDS": f"cellwork {line} {begun}", "COMP_CWORD": str(len(line.split()) + 1)}
    env = {**os.environ, **words, "_CELLWORK_COMPLETE": "bash_complete"}
    ran = subprocess.run([sys.executable, "-m", "cellwork"], env=env, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    return [one.partition(",")[2] for one in ran.stdout.splitlines() if one.startswith("plain,")]


def test_names_of_tasks_are_completed_those_of_a_module_too(kiosk):
    assert completed("route -A kiosk") == ["cellwork.run", "kiosk.sells"]
    assert completed("usage -A kiosk", "kio") == ["kiosk.sells"]
    assert completed("route -A kiosk", "x") == []
    # As zsh and fish pass it on; bash splits words at a colon.
    (item,) = completions.targets(click.Context(cellwork), click.Option(["-x"]), "kiosk:")
    assert (item.value, item.help) == ("kiosk:sells", "kiosk.sells")


@pytest.mark.parametrize("line", ["logs -A kiosk", "exec -A kiosk", "dead -A kiosk show", "logs -A nowhere", "logs"])
def test_without_redis_or_application_ids_are_not_completed_and_nothing_is_said(kiosk, line):
    assert completed(line) == []


@pytest.mark.parametrize(
    "words",
    [
        "worker -A kiosk",
        "run kiosk:sells",
        "run -A kiosk alpine:3 -- true",
        "ps -A kiosk",
        "top -A kiosk -n 1",
        "usage -A kiosk",
        "dead -A kiosk list",
        "reap -A kiosk",
        "reap -A kiosk --executor kubernetes",
        "exec -A kiosk x -- sh",
    ],
)
def test_without_a_broker_one_line_says_which_and_what_to_do(kiosk, words, monkeypatch, tmp_path):
    # Its docker command lists no container.
    (tmp_path / "docker").write_text("#!/bin/sh\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    ran = typed(*words.split())
    as_celerys = typed_as_celerys(*words.replace(" -A kiosk", "").split())
    assert (as_celerys.exit_code, as_celerys.stderr) == (ran.exit_code, ran.stderr)
    assert ran.exit_code == 1
    assert ran.stderr == (
        "Error: the broker at 127.0.0.1:1/0 (broker_url) does not answer; start it (cellwork up starts one here), or "
        "correct the URL\n"
    )


@pytest.mark.parametrize(
    "words", ["up -A kiosk", "images -A kiosk prune", "images from-venv a:1 --base b", "doctor -A kiosk"]
)
def test_without_an_engine_one_line_says_what_the_system_said_and_what_to_do(kiosk, words):
    ran = typed(*words.split())
    assert ran.exit_code == 1
    told = " ".join((ran.stdout if "doctor" in words else ran.stderr).split())
    assert "no Docker engine answers at unix:///nowhere.sock, to connect: No such file or directory. Start it" in told
    assert "hush" not in ran.output


@pytest.mark.parametrize(
    "words", ["images prune", "images ls", "logs x", "cp x:/a .", "route kiosk.sells", "doctor", "up", "dead show x"]
)
def test_a_command_does_the_same_under_celerys_own(kiosk, words):
    first, *rest = words.split()
    ran = typed(first, "-A", "kiosk", *rest)
    as_celerys = typed_as_celerys(first, *rest)
    assert (as_celerys.exit_code, as_celerys.stdout, as_celerys.stderr) == (ran.exit_code, ran.stdout, ran.stderr)
    assert ran.output


@pytest.mark.parametrize(("name", "command"), every_command(), ids=lambda one: one if isinstance(one, str) else "")
def test_every_command_explains_itself_under_celerys_own(kiosk, name, command):
    ran = typed_as_celerys(*name.split(), "--help")
    assert ran.exit_code == 0, ran.output
    assert f"celery cellwork {name}" in ran.stdout


KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: here, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: me, user: {token: hush}}]
contexts: [{name: mine, context: {cluster: here, user: me}}]
current-context: mine
"""


def test_doctor_says_which_cluster_does_not_answer_or_is_not_configured(kiosk, tmp_path, monkeypatch):
    config = tmp_path / "config"
    monkeypatch.setenv("KUBECONFIG", str(config))
    assert f"no Kubernetes cluster is configured (KUBECONFIG={config}): " in kubernetes_row()["detail"]
    config.write_text(KUBECONFIG)
    told = kubernetes_row()
    assert told["detail"].startswith("the API server at https://127.0.0.1:1 does not answer")
    assert told["detail"].endswith("Start the cluster, or correct KUBECONFIG")
    assert (told["ok"], "hush" in told["detail"]) == (False, False)


def kubernetes_row() -> dict:
    return {row["what"]: row for row in json.loads(typed("doctor", "--json").stdout)}["kubernetes"]


def test_doctor_without_services_names_broker_and_result_backend(kiosk):
    told = " ".join(typed("doctor", "-A", "kiosk").stdout.split())
    assert "127.0.0.1:1/0 (broker_url) does not answer" in told
    assert "127.0.0.1:1/1 (result_backend) does not answer" in told


def test_route_says_that_it_could_not_look_at_the_queues(kiosk):
    ran = typed("route", "-A", "kiosk", "kiosk.sells")
    assert (ran.exit_code, ran.stdout) == (0, "kiosk.sells → executor docker, queue docker: default\n")
    assert "the broker does not answer" in ran.stderr


def test_an_application_that_is_not_there_is_one_line():
    ran = typed("ps", "-A", "nothere")
    assert (ran.exit_code, ran.stderr.count("\n")) == (1, 1)
    assert typed("ps").exit_code == 2


def test_a_workers_queues_are_those_that_its_executors_tasks_are_sent_to():
    rules = [
        {"match": {"task": "ml.*"}, "executor": "kubernetes", "queue": "gpu"},
        {"match": {"task": "x.*"}, "queue": "x"},
    ]
    app = configure(Celery("queues", set_as_current=False), route=rules)
    app.task(queue="mail", shared=False)(typed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CDeprecationWarning)  # Celery's, of a task's own queue
        app.finalize()
    assert queues_of(app, "docker") == ["docker", "x", "mail"]
    assert queues_of(app, "kubernetes") == ["kubernetes", "gpu"]


def test_commands_that_no_task_declares_can_be_denied():
    spec = ContainerSpec(image="alpine:3")
    policy.check(adhoc.NAME, spec, policy.Policy())
    with pytest.raises(PolicyViolation, match="takes no commands that its app does not declare"):
        policy.check(adhoc.NAME, spec, policy.Policy(commands="deny"))


def test_a_full_disk_and_a_remote_engine_are_told(tmp_path, monkeypatch):
    told, problem = disk_of({"DockerRootDir": str(tmp_path)}, "unix:///var/run/docker.sock")
    assert "free of" in told
    assert problem == ""
    monkeypatch.setattr("cellwork_worker.executors.docker.host._LEAST", 1 << 62)
    assert "its disk is full" in disk_of({"DockerRootDir": str(tmp_path)}, "unix:///var/run/docker.sock")[1]
    assert disk_of({"DockerRootDir": "/"}, "tcp://elsewhere:2376") == ("not told by a remote engine", "")
    assert clock_of({"SystemTime": "2020-01-01T00:00:00.123456789Z"}).startswith("+")
    assert clock_of({}) == "not told"


@pytest.mark.parametrize(("width", "shown"), [(80, "TASK TASK ID UPTIME CPU MEMORY"), (300, " ".join(TITLES))])
def test_ps_leaves_out_what_a_narrow_terminal_has_no_room_for_and_never_breaks_an_id(width, shown):
    task_id = "6876e062-f4d0-4913-a1a4-60c6506b7d5e"
    row = {"task": "shop.reports.monthly_summary", "task_id": task_id, "sandbox": f"cellwork-{task_id}-0"}
    row |= {"executor": "docker", "image": "python:3.12-slim", "worker": "celery@host", "status": "running"}
    row |= {"seconds": 7000, "cpu_percent": 99.5, "memory_bytes": 1 << 27, "memory_limit_bytes": 1 << 28}
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table([row], width))
    lines = console.export_text().splitlines()
    assert lines[0].split() == shown.split()
    assert max(map(len, lines)) <= width
    assert task_id in lines[1]
