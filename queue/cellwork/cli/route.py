"""``cellwork route``: where a task would go, and why, without sending it."""

import json
from typing import Any

import click
from celery import Celery

from cellwork import router as routers
from cellwork import routing
from cellwork import spec as specs
from cellwork.errors import NoWorker
from cellwork.printable import printable
from cellwork.spec import ContainerSpec

from . import application, completions


@click.command()
@click.argument("task", shell_complete=completions.task_names)
@click.option("-A", "--app", "application_name", default=None, help="The Celery application, as for celery -A.")
@click.option("-o", "--option", "options", multiple=True, metavar="NAME=VALUE", help="As in .set(NAME=VALUE).")
@click.option("-Q", "--queue", default=None, help="An explicit queue.")
@click.option("--time-limit", type=float, default=None, help="Seconds.")
@click.option("--args", "arguments", default="[]", metavar="JSON", help="Positional arguments, as a JSON list.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def route(
    context: click.Context,
    task: str,
    application_name: str | None,
    options: tuple[str, ...],
    queue: str | None,
    time_limit: float | None,
    arguments: str,
    as_json: bool,
) -> None:
    """Say which executor and queue TASK would go to, and why. Nothing is sent."""
    app: Any = application.given(context, application_name)
    app.loader.import_default_modules()
    args = _arguments(arguments)
    found = app.tasks.get(task)
    router = routers.of(app)
    asked = router.asked(
        name=task,
        declared=getattr(found, "cellwork_spec", None) or ContainerSpec(),
        called=specs.parse(task, dict(spec_option(text) for text in options)),
        queue=queue or getattr(found, "queue", None) or routers.users_queue(app, task, args, {}, {}, found),
        time_limit=time_limit or getattr(found, "time_limit", None),
        args=args,
        parameters=routing.parameters(found),
    )
    # Without a broker the rules still have an answer.
    seen = router.look() if application.answers(str(app.conf.broker_url)) else None
    try:
        decided = router.decide(asked, seen)
    except NoWorker as error:
        raise click.ClickException(str(error)) from error
    goes_to = decided.queue or asked.queue or _default_queue(app)
    served = None if seen is None else goes_to in seen.served
    told = {
        "task": task,
        "known": found is not None,
        "executor": decided.executor,
        "queue": goes_to,
        "reason": decided.reason,
        "served": served,
    }
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    click.echo(f"{printable(task)} → executor {told['executor']}, queue {told['queue']}: {printable(decided.reason)}")
    if seen is None:
        click.echo("the broker does not answer: how long queues are, and who serves them, was not looked at", err=True)
    if found is None:
        click.echo("the application has no task of this name; only its name and these options were looked at", err=True)
    if served is False:
        click.echo(f"no worker that lives takes from queue {printable(goes_to)}: the task would wait for one", err=True)


def spec_option(text: str) -> tuple[str, Any]:
    """``NAME=VALUE`` of a sandbox's options; a VALUE that is not JSON is text.

    Raises:
        click.UsageError: there is no value.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"-o {printable(text)}: NAME=VALUE is expected, such as -o memory=32g")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value  # text, such as 32g


def _arguments(text: str) -> list[Any]:
    try:
        given = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"--args {printable(text)}: not JSON: {error}") from error
    if not isinstance(given, list):
        raise click.UsageError(f"--args {printable(text)}: a JSON list is expected")
    return given


def _default_queue(app: Celery) -> str:
    return str(app.conf.task_default_queue)
