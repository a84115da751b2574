"""``cellwork top``: ``cellwork ps``, again and again."""

import json
import threading

import click
from rich.live import Live

from . import application
from .ps import console, running, table


@click.command(short_help="ps, live; Ctrl-C ends it.")
@click.option("-A", "--app", "name", default=None, help="The Celery application, as for celery -A.")
@click.option("-n", "--count", type=click.IntRange(1), default=None, help="End after so many looks.")
@click.option("--interval", type=click.FloatRange(0.2), default=2.0, show_default=True, help="Seconds between looks.")
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON list a look, one a line.")
@click.pass_context
def top(context: click.Context, name: str | None, count: int | None, interval: float, as_json: bool) -> None:
    """Watch the running sandboxes of all workers; Ctrl-C ends it."""
    app = application.given(context, name)
    looks = 0
    where = console()
    with Live(console=where, auto_refresh=False, screen=where.is_terminal and not as_json) as live:
        try:
            while True:
                rows = running(app, figures=True)
                if as_json:
                    click.echo(json.dumps([{k: v for k, v in row.items() if k != "measured"} for row in rows]))
                else:
                    live.update(table(rows, where.width), refresh=True)
                looks += 1
                if looks == count:
                    return
                threading.Event().wait(interval)
        except KeyboardInterrupt:
            return
