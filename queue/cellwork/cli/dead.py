"""``cellwork dead``: tasks that failed as `Poisoned`, and what to do with them."""

import time
from collections.abc import Iterable

import click
import msgspec

from cellwork.broker import Broker
from cellwork.deadletter import DeadLetter, DeadLetters

from .target import app_of


@click.group()
@click.option("-A", "--app", "name", default=None, help="The Celery application, as for celery -A.")
@click.pass_context
def dead(context: click.Context, name: str | None) -> None:
    """Tasks that were delivered too often without giving an outcome."""
    app = app_of(context, name)
    context.obj = app, DeadLetters(Broker(app))


@dead.command("list")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def list_(context: click.Context, as_json: bool) -> None:
    """All of them, oldest first."""
    letters = context.obj[1].all()
    if as_json:
        _print_json(letters)
        return
    if not letters:
        click.echo("no dead letters")
        return
    for letter in letters:
        click.echo(f"{letter.task_id}  {_when(letter.died)}  {letter.deliveries} deliveries  {letter.task}")


@dead.command()
@click.argument("task_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="For programs; with the whole message.")
@click.pass_context
def show(context: click.Context, task_id: str, as_json: bool) -> None:
    """Everything known about one."""
    letter = _find(context, task_id)
    if as_json:
        _print_json([letter])
        return
    click.echo(f"task       {letter.task}\nid         {letter.task_id}\nerror      {letter.error}")
    click.echo(f"queue      {letter.routing_key}")
    click.echo(f"arguments  {letter.message['headers'].get('argsrepr')} {letter.message['headers'].get('kwargsrepr')}")
    for worker, when in letter.history:
        click.echo(f"delivered  {_when(when / 1000)} to {worker}")
    click.echo("output     " + ("not known: its sandbox was gone" if letter.output is None else ""))
    for line in (letter.output or "").splitlines():
        click.echo(f"  {line if line.isprintable() else repr(line)}")


@dead.command()
@click.argument("task_id", metavar="ID...", nargs=-1, required=True)
@click.pass_context
def requeue(context: click.Context, task_id: tuple[str, ...]) -> None:
    """Send them again; their deliveries are counted anew."""
    app, letters = context.obj
    for letter in [_find(context, one) for one in task_id]:
        letters.requeue(app, letter)
        click.echo(f"{letter.task_id} {letter.task} sent to {letter.routing_key}")


@dead.command()
@click.argument("task_id", metavar="ID...", nargs=-1, required=True)
@click.pass_context
def drop(context: click.Context, task_id: tuple[str, ...]) -> None:
    """Forget them; the tasks stay failed."""
    for letter in [_find(context, one) for one in task_id]:
        context.obj[1].drop(letter)
        click.echo(f"{letter.task_id} {letter.task} dropped")


def _find(context: click.Context, task_id: str) -> DeadLetter:
    letter: DeadLetter | None = context.obj[1].get(task_id)
    if letter is None:
        raise click.ClickException(f"{task_id}: no dead letter with this id; cellwork dead list shows all")
    return letter


def _print_json(letters: Iterable[DeadLetter]) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(list(letters)), indent=2).decode())


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
