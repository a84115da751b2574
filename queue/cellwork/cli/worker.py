"""``cellwork worker``: a thin front of ``celery worker``, with the queues of what this worker makes."""

import json
import os
import sys

import click
from celery import Celery

from cellwork import routing, settings
from cellwork.routing import KUBERNETES_QUEUE

from . import application
from .doctor import executor_health

#: Pods at once, where nothing is said: they use the cluster's processors, not the worker's.
_PODS = 100


@click.command(short_help="celery worker, with the right queues.")
@click.argument("options", metavar="[-- CELERY OPTIONS]", nargs=-1, type=click.UNPROCESSED)
@click.option("-A", "--app", "name", default=None, help="The Celery application, as for celery -A.")
@click.option("-c", "--concurrency", type=click.IntRange(1), default=None, help="Sandboxes at once.")
@click.option(
    "--executor",
    type=click.Choice(["docker", "kubernetes", "process"]),
    default=None,
    help="What it makes: containers, pods, or fresh local processes, which isolate nothing.  [default: the setting]",
)
@click.option("-Q", "--queues", default=None, help="Instead of those that the executor's tasks are sent to.")
@click.option("-l", "--loglevel", default="INFO", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="For programs: say what is started as one JSON object.")
@click.pass_context
def worker(
    context: click.Context,
    name: str | None,
    concurrency: int | None,
    executor: str | None,
    queues: str | None,
    loglevel: str,
    as_json: bool,
    options: tuple[str, ...],
) -> None:
    """Start a worker, once broker and engine answer.

    It is "celery -A APP worker -E -Q …" with the queues that tasks for this executor are sent to: for containers the
    application's default queue, for pods the queue "kubernetes", and those that its rules and its tasks name. What
    comes after -- goes to celery as it is, such as -- --autoscale=16,2.
    """
    app = application.given(context, name)
    current = settings.load(app)
    executor = executor or current.executor
    application.reach(app)
    health = executor_health(executor, current)
    if not health.ok:
        raise click.ClickException(health.detail)
    taken = queues or ",".join(queues_of(app, executor))
    slots = concurrency or (_PODS if executor == "kubernetes" else os.cpu_count() or 1)
    module = application.module(context, name)
    command = [sys.executable, "-m", "celery", "-A", module, "worker", "-E", "-Q", taken]
    command += ["-c", str(slots), "-l", loglevel, *options]
    told = {"executor": executor, "engine": health.detail, "queues": taken.split(","), "slots": slots}
    if as_json:
        click.echo(json.dumps({**told, "command": command[1:]}))
    else:
        click.echo(f"sandboxes {health.detail}, {slots} at once\nqueues    {taken}\nstarts    {' '.join(command[2:])}")
    sys.stdout.flush()
    # It becomes celery: signals, exit status and output are the worker's own.
    os.execve(command[0], command, {**os.environ, "CELLWORK_EXECUTOR": executor})  # noqa: S606


def queues_of(app: Celery, executor: str) -> list[str]:
    """The queues to which the app's tasks for this executor are sent, the usual one first.

    Raises:
        InvalidSetting: the router's rules are wrong.
    """
    pods = executor == "kubernetes"
    found = [KUBERNETES_QUEUE if pods else str(app.conf.task_default_queue)]
    rules = routing.parse_rules(settings.load(app).route)
    found += [rule.queue for rule in rules if rule.queue and (rule.executor == "kubernetes") == pods]
    app.loader.import_default_modules()
    for task_name in sorted(app.tasks):
        queue = getattr(app.tasks[task_name], "queue", None)
        spec = getattr(app.tasks[task_name], "cellwork_spec", None)
        if queue and spec is not None and (spec.executor == "kubernetes") == pods:
            found.append(str(getattr(queue, "name", queue)))
    return list(dict.fromkeys(found))
