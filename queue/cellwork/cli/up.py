"""``cellwork up``: all of it on one machine."""

import json
import os
import signal
import sys
from importlib.util import find_spec

import click

from . import application
from .doctor import executor_health
from .processes import Processes


def _on_term(number: int, frame: object) -> None:
    raise KeyboardInterrupt


@click.command(short_help="Worker, Flower and a broker if none answers, until Ctrl-C.")
@click.option("-A", "--app", "name", default=None, help="The Celery application, as for celery -A.")
@click.option("-c", "--concurrency", default=4, show_default=True, help="Sandboxes at once.")
@click.option(
    "--executor",
    type=click.Choice(["docker", "process"]),
    default=None,
    help="process: fresh local processes, which isolate nothing.  [default: docker]",
)
@click.option("--flower/--no-flower", default=True, show_default=True, help="The monitor, in a browser.")
@click.option("--flower-port", default=5555, show_default=True)
@click.option("-l", "--loglevel", default="INFO", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="For programs: say what was started as one JSON object.")
@click.pass_context
def up(
    context: click.Context,
    name: str | None,
    concurrency: int,
    executor: str | None,
    flower: bool,
    flower_port: int,
    loglevel: str,
    as_json: bool,
) -> None:
    """Start a worker and Flower, and a broker if none answers; Ctrl-C stops them all."""
    app = application.given(context, name)
    executor = executor or os.environ.get("CELLWORK_EXECUTOR") or "docker"
    health = executor_health(executor)
    if not health.ok:
        raise click.ClickException(
            f"{health.detail}. Without containers: cellwork up --executor process (fresh local processes; isolates "
            f"nothing)"
        )
    signal.signal(signal.SIGTERM, _on_term)
    processes = Processes(application.module(context, name), env={"CELLWORK_EXECUTOR": executor})
    with application.broker(str(app.conf.broker_url)) as where:
        told = {"broker": where, "sandboxes": health.detail}
        try:
            processes.start("worker", "worker", "-c", str(concurrency), "-E", "-l", loglevel, "-n", "up@%h")
            if flower and find_spec("flower"):
                processes.start("flower", "flower", "--address=127.0.0.1", f"--port={flower_port}")
                told["monitor"] = f"http://127.0.0.1:{flower_port}"
            elif flower:
                told["monitor"] = "Flower is not installed; pip install cellwork[flower]"
            if as_json:
                click.echo(json.dumps(told))
            else:
                click.echo("\n".join(f"{what:9} {detail}" for what, detail in told.items()))
                click.echo("Ctrl-C stops everything.")
            processes.wait()
        except KeyboardInterrupt:
            click.echo("\nstopping …", err=True)
        finally:
            processes.stop()
    sys.stdout.flush()
