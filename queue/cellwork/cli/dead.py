"""``cellwork dead``: tasks that failed as `Poisoned`, and what to do with them."""

import json
import time
from collections.abc import Callable, Iterable

import click
import msgspec
from celery import Celery

from cellwork.broker import Broker
from cellwork.deadletter import DeadLetter, DeadLetters

from . import application, completions


@click.group(short_help="Tasks that were given up: list, show, requeue, drop.")
@click.option("-A", "--app", "name", default=None, help="The Celery application, as for celery -A.")
@click.pass_context
def dead(context: click.Context, name: str | None) -> None:
    """Tasks that were delivered too often without giving an outcome."""
    context.meta["cellwork.app"] = name


@dead.command("list")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def list_(context: click.Context, as_json: bool) -> None:
    """All of them, oldest first."""
    letters = _given(context)[1].all()
    if as_json:
        _print_json(letters)
        return
    if not letters:
        click.echo("no dead letters")
        return
    for letter in letters:
        click.echo(f"{letter.task_id}  {_when(letter.died)}  {letter.deliveries} deliveries  {letter.task}")


@dead.command()
@click.argument("task_id", metavar="ID", shell_complete=completions.dead_ids)
@click.option("--json", "as_json", is_flag=True, help="For programs; with the whole message.")
@click.pass_context
def show(context: click.Context, task_id: str, as_json: bool) -> None:
    """Everything known about one."""
    letter = _find(_given(context)[1], task_id)
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
@click.argument("task_id", metavar="ID...", nargs=-1, required=True, shell_complete=completions.dead_ids)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def requeue(context: click.Context, task_id: tuple[str, ...], as_json: bool) -> None:
    """Send them again; their deliveries are counted anew."""
    app, letters = _given(context)
    found = [_find(letters, one) for one in task_id]
    for letter in found:
        letters.requeue(app, letter)
    _say(found, as_json, lambda letter: f"sent to {letter.routing_key}")


@dead.command()
@click.argument("task_id", metavar="ID...", nargs=-1, required=True, shell_complete=completions.dead_ids)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def drop(context: click.Context, task_id: tuple[str, ...], as_json: bool) -> None:
    """Forget them; the tasks stay failed."""
    _, letters = _given(context)
    found = [_find(letters, one) for one in task_id]
    for letter in found:
        letters.drop(letter)
    _say(found, as_json, lambda letter: "dropped")


def _say(letters: list[DeadLetter], as_json: bool, done: Callable[[DeadLetter], str]) -> None:
    if as_json:
        click.echo(json.dumps([{"task_id": one.task_id, "task": one.task, "done": done(one)} for one in letters]))
        return
    for letter in letters:
        click.echo(f"{letter.task_id} {letter.task} {done(letter)}")


def _given(context: click.Context) -> tuple[Celery, DeadLetters]:
    app = application.given(context, context.meta["cellwork.app"])
    application.reach(app)
    return app, DeadLetters(Broker(app))


def _find(letters: DeadLetters, task_id: str) -> DeadLetter:
    letter = letters.get(task_id)
    if letter is None:
        raise click.ClickException(f"{task_id}: no dead letter with this id; cellwork dead list shows all")
    return letter


def _print_json(letters: Iterable[DeadLetter]) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(list(letters)), indent=2).decode())


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
