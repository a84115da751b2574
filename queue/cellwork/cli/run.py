"""``cellwork run``: send a task or a command, show what it prints, and end as it ends."""

import importlib
import json
from typing import Any

import click
from celery import Celery
from celery.app.task import Task
from kombu.exceptions import OperationalError

from cellwork import adhoc, configure, settings
from cellwork import router as routers
from cellwork.errors import CommandFailed
from cellwork.logs import LogReader, logs
from cellwork.printable import printable

from . import application, completions
from .broker_health import backend_health
from .route import spec_option

#: Of an error, in the output for people; `--json` has all of it.
_MOST = 8000


class _Run(click.Command):
    """Knows whether ``--`` came after the target, which click takes away."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["cellwork.command"] = "--" in args
        return super().parse_args(ctx, args)


# What begins with a dash and is no option of ours is an argument: a negative number.
@click.command(cls=_Run, context_settings={"ignore_unknown_options": True})
@click.argument("target", metavar="MODULE:TASK|IMAGE", shell_complete=completions.targets)
@click.argument("words", metavar="[ARG]...|-- CMD...", nargs=-1)
@click.option("-A", "--app", "name", default=None, help="For IMAGE: the application.  [default: broker and settings]")
@click.option("-o", "--option", "options", multiple=True, metavar="NAME=VALUE", help="As in .set(NAME=VALUE).")
@click.option("--json", "as_json", is_flag=True, help="For programs: the outcome as one JSON object, no output.")
@click.pass_context
def run(
    context: click.Context,
    target: str,
    words: tuple[str, ...],
    name: str | None,
    options: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run a task, or any command in any image, and follow it to its end.

    \b
    cellwork run shop.tasks:parse https://example.org    a task; each ARG is JSON, or else a string
    cellwork run alpine:3 -- sh -c 'echo $HOSTNAME'      a command, in a sandbox of that image
    cellwork run alpine:3 -o network=bridge -- wget …    with options of the sandbox

    A task's output goes to standard error and its result to standard output, a command's output where the command
    sends it. The exit status is 0, a command's own, or 1 for any other failure. Ctrl-C leaves the task running.
    """
    ad_hoc = bool(context.meta["cellwork.command"])
    task = adhoc.task(_app(context, name)) if ad_hoc else _task(target)
    app = application.checked(task.app, target)
    given: dict[str, Any] = dict(spec_option(text) for text in options)
    if ad_hoc:
        given |= {"image": target, "result": "text" if as_json else "none"}
    application.reach(app)
    if not (results := backend_health(app))["ok"]:
        raise click.ClickException(results["detail"])
    LogReader(app, "")  # raises where nothing could be followed
    _warn(app)
    arguments = words if ad_hoc else tuple(_value(word) for word in words)
    try:
        result = task.apply_async(arguments, **given)
    except OperationalError as error:
        where = application.place(str(app.conf.broker_url))
        raise click.ClickException(f"the broker at {where} does not take the task: {error}") from error
    try:
        for line in logs(result.id, app=app, follow=True):
            if not as_json:
                click.echo(printable(line.text), err=not ad_hoc or line.stream != "stdout")
        result.get(propagate=False)
    except KeyboardInterrupt:
        click.echo(f"\n{result.id} runs on; cellwork logs {result.id} -f shows it", err=True)
        context.exit(130)
    if ad_hoc and not as_json and isinstance(result.result, CommandFailed):
        context.exit(result.result.status)  # what it printed has been shown
    context.exit(_told(result, as_json))


def _app(context: click.Context, name: str | None) -> Celery:
    """The application that a command is sent through: any one will do that has the workers' broker and settings."""
    if name is not None or application.outer(context) is not None:
        return application.given(context, name)
    return configure(Celery("cellwork"))


def _warn(app: Any) -> None:
    """Say so where nobody would take the task: it would wait, and this command with it."""
    seen = routers.of(app).look()
    if seen is not None and not seen.served:
        installation = settings.load(app).installation
        click.echo(
            f"no worker of installation {installation!r} lives: this waits until one does. cellwork worker -A … starts "
            f"one; -A says here, too, whose settings count",
            err=True,
        )


def _task(target: str) -> Any:
    name, colon, attribute = target.partition(":")
    if not (name and colon and attribute):
        raise click.UsageError(
            f"{printable(target)}: which task? Say MODULE:TASK, such as shop.tasks:parse, or IMAGE -- COMMAND, such as "
            f"alpine:3 -- date"
        )
    application.look_here()
    try:
        found = getattr(importlib.import_module(name), attribute)
    except (ImportError, AttributeError) as error:
        raise click.ClickException(
            f"{printable(target)}: {error}; run it from the folder that holds the module (a command in an image is "
            f"cellwork run IMAGE -- COMMAND)"
        ) from error
    if not isinstance(found, Task):
        raise click.ClickException(f"{target} is no task; it must be declared with @app.task or @command")
    return found


def _value(word: str) -> Any:
    try:
        return json.loads(word)
    except json.JSONDecodeError:
        return word


def _told(result: Any, as_json: bool) -> int:
    """Print the outcome; return the exit status."""
    value, failed = result.result, not result.successful()
    status = value.status if isinstance(value, CommandFailed) else int(failed)
    if as_json:
        what = {"error": f"{type(value).__name__}: {value}"} if failed else {"result": value}
        click.echo(json.dumps({"task_id": result.id, "state": result.state, "status": status, **what}, default=str))
    elif failed:
        text = f"{type(value).__name__}: {value}"[:_MOST]
        click.echo("\n".join(printable(line) for line in text.splitlines()), err=True)
    elif isinstance(value, str):
        click.echo("\n".join(printable(line) for line in value.splitlines()))
    elif value is not None:
        click.echo(json.dumps(value, default=str))
    return status
