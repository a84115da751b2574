"""``cellwork ps``: what runs where, how long, and what it uses."""

import json
import sys
import time
from typing import Any

import click
from celery import Celery
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cellwork.errors import BrokerUnavailable
from cellwork.printable import printable
from cellwork.running import ANSWER, ask, rows

from . import application

#: Seconds that figures may take after the workers have answered.
_FIGURES = 4.0

#: Seconds that a worker waits for its figures before it answers without.
_WAIT = 0.3

_TITLES = ("TASK", "TASK ID", "SANDBOX", "EXECUTOR", "IMAGE", "WORKER", "STATUS", "UPTIME", "CPU", "MEMORY", "LIMIT")

#: Left out where the terminal is too narrow, in this order: what other commands ask for, the id, stays whole.
_SPARE = ("SANDBOX", "WORKER", "IMAGE", "EXECUTOR", "STATUS", "LIMIT")

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def running(app: Celery, *, figures: bool = False) -> list[dict[str, Any]]:
    """The sandboxes of all workers; with what they use, if `figures`.

    Raises:
        click.ClickException: the broker does not answer, or no worker does.
    """
    application.reach(app)
    try:
        answers = ask(app)
        if not answers:
            raise click.ClickException(
                f"no worker answered within {ANSWER:g} s; start one: cellwork worker -A …, or cellwork up"
            )
        deadline = time.monotonic() + _FIGURES
        while figures and time.monotonic() < deadline and not all(row["measured"] for row in rows(answers)):
            answers = ask(app, list(answers), _WAIT) or answers
    except BrokerUnavailable as error:
        raise click.ClickException(str(error)) from error
    return rows(answers)


@click.command(short_help="Running sandboxes, with what they use now.")
@click.option("-A", "--app", "name", default=None, help="The Celery application, as for celery -A.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def ps(context: click.Context, name: str | None, as_json: bool) -> None:
    """List the running sandboxes of all workers, with what they use now."""
    found = running(application.given(context, name), figures=True)
    if as_json:
        shown = [{key: value for key, value in row.items() if key != "measured"} for row in found]
        click.echo(json.dumps(shown, indent=2))
    else:
        where = console()
        where.print(table(found, where.width))


def console() -> Console:
    """Into a pipe go whole lines, whatever their length."""
    return Console() if sys.stdout.isatty() else Console(width=1000)


def table(sandboxes: list[dict[str, Any]], width: int) -> Table:
    """For a terminal of so many columns; names are shown as text, whatever is in them."""
    lines = [_cells(row) for row in sandboxes]
    wide = {title: max(map(cell_len, (title, *(line[title] for line in lines)))) for title in _TITLES}
    titles = list(_TITLES)
    for spare in _SPARE:
        if sum(wide[title] + 2 for title in titles) <= width:
            break
        titles.remove(spare)
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        shown.add_column(title, overflow="fold", no_wrap=title not in {"TASK", "SANDBOX", "IMAGE", "WORKER"})
    for line in lines:
        shown.add_row(*(Text(line[title]) for title in titles))
    return shown


def _cells(row: dict[str, Any]) -> dict[str, str]:
    cpu, memory, limit = row["cpu_percent"], row["memory_bytes"], row["memory_limit_bytes"]
    cells = (
        *(row[key] for key in ("task", "task_id", "sandbox", "executor")),
        row["image"] or "–",
        row["worker"],
        row["status"],
        _duration(row["seconds"]),
        "–" if cpu is None else f"{cpu:.1f} %",
        "–" if memory is None else size(memory),
        size(limit) if limit else "–",
    )
    # Names come from messages: text, never markup, and nothing that a terminal obeys.
    return {title: printable(str(cell)) for title, cell in zip(_TITLES, cells, strict=True)}


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02}m" if hours else f"{minutes}m {rest:02}s" if minutes else f"{rest}s"


def size(count: float) -> str:
    """Bytes as a person reads them."""
    for unit in _UNITS[:-1]:
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} {_UNITS[-1]}"
