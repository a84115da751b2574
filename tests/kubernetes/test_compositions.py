"""Airflow's executors, as docs/routing.md says that they are had here: its commands and settings, run as they stand."""

import re
import tomllib
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from celery import Celery
from conftest import WorkerProcess
from pages.claims import the_lines
from waiting import wait_until

from cellwork import configure

TIMEOUT = 60

PAGE = Path(__file__).parents[2] / "docs/routing.md"

#: As Airflow calls them, and where a light and a heavy task run.
EXPECTED = {
    "SequentialExecutor": ("inline", "inline"),
    "LocalExecutor": ("process", "process"),
    "CeleryExecutor": ("docker", "docker"),
    "KubernetesExecutor": ("kubernetes", "kubernetes"),
    "CeleryKubernetesExecutor": ("docker", "kubernetes"),
    "LocalKubernetesExecutor": ("process", "kubernetes"),
}

_EXAMPLE = re.compile(r"^\*\*(\w+)\*\*.*\n```console\n((?:.*\n)+?)```\n(?:```toml\n((?:.*\n)+?)```\n)?", re.MULTILINE)
_COMMAND = re.compile(r"((?:[A-Z_]+=\S+ )*)celery -A shop\.tasks worker (.*)")

#: Each composition has a broker of its own: a database that no other test uses.
_databases = count(5)


def examples() -> dict[str, tuple[list[str], dict]]:
    """Commands and settings, by what they stand for."""
    section = PAGE.read_text().partition("## The same as Airflow's executors")[2]
    found = _EXAMPLE.findall(section)
    return {name: (lines.splitlines(), tomllib.loads(toml).get("cellwork", {})) for name, lines, toml in found}


def test_each_has_its_example():
    assert examples().keys() == EXPECTED.keys()
    shown = [line for lines, _ in examples().values() for line in lines]
    assert shown == the_lines("docs/routing.md", "celery -A shop.tasks worker")


@pytest.fixture
def compose(start_worker, cluster, broker, tmp_path) -> Iterator[Callable[[list[str]], list[WorkerProcess]]]:
    """Start the workers of one composition on its own broker."""
    started = []

    def compose(lines: list[str], **env: str) -> list[WorkerProcess]:
        for number, line in enumerate(lines):
            said, arguments = _COMMAND.fullmatch(line).groups()
            own = dict(one.split("=") for one in said.split())
            words = re.sub(r"-n \S+", "", arguments).split()
            started.append(start_worker(*words, name=f"{env['NAME']}-{number}", **{**env, **own}))
        return started

    yield compose
    for worker in started:
        worker.stop()


@pytest.mark.parametrize("name", EXPECTED)
def test_it_runs_tasks_where_it_says(compose, cluster, broker, installation, monkeypatch, shop, name):
    lines, settings = examples()[name]
    address = f"{broker}/{next(_databases)}"
    env = {
        "NAME": name,
        "CELERY_BROKER_URL": address,
        "CELERY_RESULT_BACKEND": address,
        "KUBECONFIG": str(cluster.kubeconfig),
        "CELLWORK_KUBE_NAMESPACE": cluster.namespace,
    }
    workers = compose(lines, **env)
    for variable in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"):
        monkeypatch.setenv(variable, address)
    # A producer that has no task, but their names.
    app = configure(Celery("composed", set_as_current=False), installation=installation, unserved="error", **settings)

    for memory, expected in zip(("64m", "5g"), EXPECTED[name], strict=True):
        result, seen = app.send_task("shop.tasks.where", image=cluster.image, memory=memory), set()
        wait_until(lambda: seen.update(cluster.left()) or result.ready(), timeout=TIMEOUT, what="the result")  # noqa: B023
        found, told = result.get(), app.backend.get_task_meta(result.id).get("cellwork", {"executor": "inline"})
        assert told["executor"] == expected
        assert (f"pod cellwork-{result.id}-0" in seen) is (expected == "kubernetes")
        # The first process of a namespace of its own; the worker; or a child of it.
        assert (found["pid"] == 1) is (expected in ("docker", "kubernetes"))
        assert (found["pid"] in [worker.process.pid for worker in workers]) is (expected == "inline")
    app.close()
