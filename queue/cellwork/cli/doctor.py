"""``cellwork doctor``: whether tasks can run here, and if not, what to do."""

import importlib
import json
import os
from typing import Any, Protocol

import click
from celery import Celery
from redis import RedisError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cellwork import settings
from cellwork import spec as specs
from cellwork.broker import Broker
from cellwork.errors import CellworkError, EngineUnavailable
from cellwork.settings import Settings
from cellwork.spec import ContainerSpec

from . import application
from .broker_health import backend_health, redis_health, versions_health
from .image_health import images_health

#: Seconds that workers are given to say how their sandboxes that wait warm are used.
_ANSWER = 2.0


class Health(Protocol):
    """What an executor says of itself (`cellwork_worker.executors.base.Health`)."""

    executor: str
    ok: bool
    detail: str
    facts: dict[str, str]


def executor_health(name: str, given: Settings | None = None) -> Health:
    """Ask an executor, by name, whether it can make sandboxes now.

    Raises:
        cellwork.errors.EngineUnavailable: its SDK is not installed.
    """
    # By name: nothing that a producer imports may import the worker's side.
    registry = importlib.import_module("cellwork_worker.executors.registry")
    executors = registry.Executors(given or Settings(installation="doctor"), worker="doctor")
    health: Health = executors(name).check()
    return health


def cluster_health(current: Settings) -> dict[str, Any] | None:
    """The cluster, and each verb that the worker's role there lacks. None: nothing here says that there is one."""
    if current.executor != "kubernetes" and not {"KUBECONFIG", "KUBERNETES_SERVICE_HOST"} & os.environ.keys():
        return None
    try:
        health = executor_health("kubernetes", current)
    except EngineUnavailable as error:
        # A KUBECONFIG is on many machines that are to make no pods.
        return {"what": "kubernetes", "ok": current.executor != "kubernetes", "detail": str(error), "facts": {}}
    return {"what": "kubernetes", "ok": health.ok, "detail": health.detail, "facts": health.facts}


def tasks_health(app: Celery, current: Settings) -> dict[str, Any]:
    """Which of the application's tasks the policy refuses here. No fault: other workers may have another one."""
    hardening = importlib.import_module("cellwork_worker.hardening")
    rules = importlib.import_module("cellwork_worker.policy")
    policy = rules.load(current.policy)
    app.loader.import_default_modules()
    app.finalize(auto=True)
    refused, count = {}, 0
    for name, task in sorted(app.tasks.items()):
        spec = getattr(task, "cellwork_spec", None)
        if spec is None or spec.executor == "inline" or name.startswith(("celery.", "cellwork.")):
            continue
        count += 1
        queue = str(getattr(task, "queue", None) or app.conf.task_default_queue)
        defaults = specs.merge(current.defaults, current.queue_defaults.get(queue, ContainerSpec()))
        try:
            rules.check(name, hardening.harden(name, spec, defaults), policy)
        except CellworkError as error:
            refused[name] = str(error)
    return {
        "what": "tasks",
        "ok": True,
        "detail": f"{count}, of which {len(refused)} are refused here",
        "facts": refused,
    }


def workers_health(app: Celery) -> dict[str, Any]:
    """Which workers live, and whether all agree about the visibility timeout: the shortest one wins."""
    broker = Broker(app)
    ours = broker.visibility_timeout
    try:
        live = list(importlib.import_module("cellwork_worker.heartbeat").live(broker))
    except RedisError as error:
        return {"what": "workers", "ok": False, "detail": f"the broker does not say which live: {error}", "facts": {}}
    finally:
        broker.close()
    facts = {beat.worker: f"visibility_timeout={beat.visibility_timeout:g}, {beat.executor}" for beat in live}
    facts |= {worker: f"{facts[worker]}; {told}" for worker, told in _warm(app, list(facts)).items()}
    others = [beat.worker for beat in live if beat.visibility_timeout != ours]
    detail = f"{len(live)} live, visibility_timeout={ours:g} s"
    if others:
        detail = (
            f"{', '.join(others)} and this process (visibility_timeout={ours:g}) differ: the shortest one wins, and "
            f"tasks of the others are delivered twice. Give all the same settings"
        )
    return {"what": "workers", "ok": not others, "detail": detail, "facts": facts}


def _warm(app: Celery, workers: list[str]) -> dict[str, str]:
    """How the sandboxes that wait warm are used, by worker; nothing of one that makes none or does not answer."""
    if not workers:
        return {}
    asked = app.control.inspect(destination=workers, timeout=_ANSWER, limit=len(workers)).stats() or {}
    pools = {worker: stats.get("pool", {}).get("warm") for worker, stats in asked.items()}
    return {
        worker: f"warm: {pool['hits']} hits, {pool['misses']} misses, {sum(pool['waiting'].values())} waiting, "
        f"{pool['starting']} starting"
        + (f", ready in {pool['start_seconds_p50']:g} s (p50)" if pool["start_seconds_p50"] else "")
        for worker, pool in pools.items()
        if pool is not None
    }


@click.command(short_help="Can tasks run here? If not, what to do.")
@click.option("-A", "--app", "name", default=None, help="Also look at this application's broker and settings.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def doctor(context: click.Context, name: str | None, as_json: bool) -> None:
    """Check whether tasks can run here, and say what to do where they cannot (exit status 1).

    Looks at the engine, the cluster where there is one, the policy and the libraries; with -A also at the broker, the
    result backend, the workers, and the images of that application with their registries.
    """
    rows: list[dict[str, Any]] = []
    for executor in ("docker", "process"):
        health = executor_health(executor)
        rows.append({"what": executor, "ok": health.ok, "detail": health.detail, "facts": health.facts})
    known = name is not None or application.outer(context) is not None
    app = application.given(context, name) if known else Celery("doctor")
    current = settings.load(app)
    if (cluster := cluster_health(current)) is not None:
        rows.append(cluster)
    rules = importlib.import_module("cellwork_worker.policy")
    facts = rules.describe(rules.load(current.policy))
    rows.append({"what": "policy", "ok": True, "detail": "what this worker allows", "facts": facts})
    if known:
        rows += [tasks_health(app, current), *_installation(app)]
    rows.append(versions_health())
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        _print(rows)
    if not all(row["ok"] for row in rows):
        context.exit(1)


def _installation(app: Celery) -> list[dict[str, Any]]:
    """What is known only of an application: broker, results, workers, images."""
    url = str(app.conf.broker_url)
    ok = application.answers(url)
    where = application.place(url)
    detail = f"{where} answers" if ok else f"{where} (broker_url) does not answer; cellwork up starts one here"
    broker = {"what": "broker", "ok": ok, "detail": detail, "facts": {}}
    asked = [redis_health(app), workers_health(app)] if ok else []
    return [broker, *asked, backend_health(app), *images_health(app)]


def _print(rows: list[dict[str, Any]]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        mark = "[green]ok[/green]" if row["ok"] else "[red]no[/red]"
        facts = "\n".join(f"[dim]{escape(key)}: {escape(str(value))}[/dim]" for key, value in row["facts"].items())
        table.add_row(mark, row["what"], escape(row["detail"]) + (f"\n{facts}" if facts else ""))
    Console().print(table)
