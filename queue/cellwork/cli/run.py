"""``cellwork run``: send a task, show what it prints, and end as it ends."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import click
from celery.app.task import Task
from kombu.exceptions import OperationalError

from cellwork.errors import CommandFailed, LogsUnavailable
from cellwork.logs import logs
from cellwork.printable import printable

from . import application

#: Of an error, in the output for people; `--json` has all of it.
_MOST = 8000


@click.command()
@click.argument("target", metavar="MODULE:TASK")
@click.argument("words", metavar="[ARG]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="For programs: the outcome as one JSON object, no output.")
@click.pass_context
def run(context: click.Context, target: str, words: tuple[str, ...], as_json: bool) -> None:
    """Send a task and follow it to its end.

    An ARG that is JSON is taken as that, any other as a string. The result is printed as JSON, a string as it is.
    The exit status is 0, a command's own, or 1 for any other failure. Ctrl-C leaves the task running.
    """
    task = _task(target)
    app = application.checked(task.app, target)
    url = str(app.conf.broker_url)
    where = url.rpartition("@")[2]
    if not application.answers(url):
        raise click.ClickException(f"the broker at {where} (broker_url) does not answer; start it: cellwork up")
    try:
        result = task.delay(*(_value(word) for word in words))
    except OperationalError as error:
        raise click.ClickException(f"the broker at {where} does not take the task: {error}") from error
    try:
        for line in logs(result.id, app=app, follow=True):
            if not as_json:
                click.echo(printable(line.text), err=True)
        result.get(propagate=False)
    except LogsUnavailable as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        click.echo(f"\n{result.id} runs on; cellwork logs {result.id} -f shows it", err=True)
        context.exit(130)
    context.exit(_told(result, as_json))


def _task(target: str) -> Any:
    name, colon, attribute = target.partition(":")
    if not (name and colon and attribute):
        raise click.UsageError(f"{printable(target)}: which task? Say MODULE:TASK, such as shop.tasks:parse")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found = getattr(importlib.import_module(name), attribute)
    except (ImportError, AttributeError) as error:
        raise click.ClickException(f"{target}: {error}; run it from the folder that holds the module") from error
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
