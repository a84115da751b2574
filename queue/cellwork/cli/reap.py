"""``cellwork reap``: end the sandboxes of dead workers on this machine's engine, or in the cluster."""

import importlib
import json

import click
from redis import RedisError

from . import application


@click.command(short_help="End the sandboxes of dead workers.")
@click.option("-A", "--app", "name", default=None, help="The Celery application, as for celery -A.")
@click.option(
    "--executor",
    type=click.Choice(["docker", "kubernetes"]),
    default=None,
    help="Containers of this machine's engine, or pods of the cluster.  [default: the setting]",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be ended.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def reap(context: click.Context, name: str | None, executor: str | None, dry_run: bool, as_json: bool) -> None:
    """End sandboxes that nobody owns any more; workers do this by themselves, too."""
    app = application.given(context, name)
    application.reach(app)
    # By name: nothing that a producer imports may import the worker's side.
    reaper = importlib.import_module("cellwork_worker.reaper")
    try:
        found: list[tuple[str, str]] = reaper.reap(app, executor=executor, dry_run=dry_run)
    except RedisError as error:
        raise click.ClickException(f"the broker must say which workers live, and does not answer: {error}") from error
    if as_json:
        click.echo(json.dumps([{"sandbox": sandbox, "reason": reason} for sandbox, reason in found], indent=2))
        return
    for sandbox, reason in found:
        click.echo(f"{'would end' if dry_run else 'ended'} {sandbox}: {reason}")
    if not found:
        click.echo("nothing to end")
