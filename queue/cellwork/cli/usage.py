"""``cellwork usage``: what tasks used, by task and by queue."""

import sys
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import msgspec
from redis import RedisError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cellwork import prices as price
from cellwork import settings, sizing
from cellwork.broker import Broker
from cellwork.prices import Prices, Use
from cellwork.printable import printable
from cellwork.spec import ContainerSpec
from cellwork.usage import SUMS, Quantiles, Run, Summary, summarise, sums
from cellwork.usagestore import UsageStore

from . import application, completions, plots
from .logs import Moment
from .ps import size

#: Columns of distributions: measure, title.
_SHOWN = (("queue_seconds", "QUEUED"), ("start_seconds", "START"), ("run_seconds", "RUN"), ("cpu_seconds", "CPU"))


class _Table(click.ParamType[Prices]):
    name = "FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Prices:
        """See click."""
        try:
            return price.read(Path(value))
        except OSError as error:
            self.fail(f"{value}: {error.strerror}", param, ctx)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command(short_help="What tasks used: time, processors, memory.")
@click.argument("task", required=False, shell_complete=completions.task_names)
@click.option("-A", "--app", "name", default=None, help="The Celery application, as for celery -A.")
@click.option("--since", type=Moment(), default=None, help="Only runs that ended since: 10m, 1h30m, or a time.")
@click.option("--json", "as_json", is_flag=True, help="For programs; with --since also each run.")
@click.option("--suggest", "suggesting", is_flag=True, help="What tasks should ask for, as it is to be written.")
@click.option(
    "--prices",
    type=_Table(),
    envvar="CELLWORK_PRICES",
    help="A TOML file: what an hour of a processor costs, and so on (docs/monitoring.md). Adds the cost.",
)
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Also draw it, into this file (.png, .svg)."
)
@click.pass_context
def usage(
    context: click.Context,
    task: str | None,
    name: str | None,
    since: datetime | None,
    as_json: bool,
    suggesting: bool,
    prices: Prices | None,
    plot: Path | None,
) -> None:
    """Show what the runs of all tasks, or of one TASK, used: median / 95 %, and sums.

    Without --since, sums are of all runs, and distributions of the newest thousand or so of each task, to within
    9 %. With it, all is exact, of the 10,000 newest runs at most.
    """
    app = application.given(context, name)
    application.reach(app)
    broker = Broker(app)
    store = UsageStore(broker)
    runs: list[Run] = []
    try:
        if since is None:
            summaries = store.summaries(task)
        else:
            runs = list(store.runs(since.timestamp(), task))
            summaries = summarise(runs)
    except RedisError as error:
        raise click.ClickException(f"the broker at {str(app.conf.broker_url).rpartition('@')[2]}: {error}") from error
    finally:
        broker.close()
    if suggesting:
        suggest_sizes(app, summaries, as_json)
        return
    if plot is not None:
        plots.draw(summaries, plot, prices)
    if as_json:
        found = {"tasks": [tell(one, prices) for one in summaries]}
        click.echo(dumps(found | {"queues": queues(runs, prices), "runs": runs} if since is not None else found))
        return
    if not summaries:
        click.echo("no runs" + (f" of {printable(task)}" if task else "") + (" since then" if since else ""))
        return
    # Into a pipe go whole lines, whatever their length.
    console = Console() if sys.stdout.isatty() else Console(width=1000)
    console.print(table(summaries, prices))
    if since is not None:
        console.print(queue_table(runs, prices))


def suggest_sizes(app: Any, summaries: list[Summary], as_json: bool) -> None:
    """Say what tasks should ask for, apart from those that do not want to know."""
    app.loader.import_default_modules()
    current = settings.load(app)

    def wanted(task: str) -> bool:
        spec = getattr(app.tasks.get(task), "cellwork_spec", None) or ContainerSpec()
        return (spec.learn or current.defaults.learn or current.learn) != "off"

    found = [one for s in summaries if wanted(s.task) and (one := sizing.suggest(s, current.learn_headroom))]
    if as_json:
        click.echo(dumps(found))
        return
    for one in found:
        click.echo(f"# {printable(one.task)}: {one.why}\n{one.decorator}")
    if not found:
        click.echo(f"nothing to suggest yet: a task must have run {sizing.LEAST_RUNS} times")


def dumps(found: Any) -> str:
    """For programs, and readable."""
    return msgspec.json.format(msgspec.json.encode(found), indent=2).decode()


def tell(summary: Summary, prices: Prices | None) -> dict[str, Any]:
    """One task, for programs."""
    cost = {} if prices is None else {"cost": prices.cost(summary.use)}
    return {**msgspec.structs.asdict(summary), **cost}


def queues(runs: list[Run], prices: Prices | None = None) -> dict[str, dict[str, float]]:
    """Sums by queue."""
    found: dict[str, Counter[str]] = {}
    for run in runs:
        found.setdefault(run.queue, Counter()).update({"runs": 1, **sums(run)})
    told: dict[str, dict[str, float]] = {}
    for queue, amounts in sorted(found.items()):
        told[queue] = {name: amounts[name] for name in ("runs", *SUMS)}
        if prices is not None:
            told[queue]["cost"] = prices.cost(msgspec.convert(told[queue], Use))
    return told


def table(summaries: list[Summary], prices: Prices | None = None) -> Table:
    """One line a task; with prices, and one for all of them."""
    costs = [None if prices is None else prices.cost(summary.use) for summary in summaries]
    titles = ("TASK", "RUNS", "FAILED", *(title for _, title in _SHOWN), "MEMORY", "CPU SUM", "GiB·h")
    shown = _table(*titles, *_cost_title(prices))
    for summary, cost in zip(summaries, costs, strict=True):
        cells = [
            summary.task,
            str(summary.runs),
            str(summary.failed),
            *(_spread(summary.quantiles.get(measure), duration) for measure, _ in _SHOWN),
            _spread(summary.quantiles.get("peak_memory_bytes"), size),
            duration(summary.cpu_seconds),
            f"{summary.memory_gib_seconds / 3600:.3f}",
        ]
        _add(shown, [*cells, *_cost(cost)])
    if prices is not None:
        _add(shown, ["all", *("" for _ in titles[1:]), *_cost(sum(cost or 0.0 for cost in costs))])
    return shown


def queue_table(runs: list[Run], prices: Prices | None = None) -> Table:
    """One line a queue."""
    shown = _table("\nQUEUE", "\nRUNS", "\nCPU SUM", "\nRUN SUM", *(f"\n{title}" for title in _cost_title(prices)))
    for queue, amounts in queues(runs, prices).items():
        cells = [queue, f"{amounts['runs']:.0f}", duration(amounts["cpu_seconds"]), duration(amounts["run_seconds"])]
        _add(shown, [*cells, *_cost(amounts.get("cost"))])
    return shown


def duration(seconds: float) -> str:
    """As a person reads it."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def _spread(found: Quantiles | None, shown: Any) -> str:
    return "–" if found is None else " / ".join(shown(value) for value in (found.p50, found.p95))


def _table(*titles: str) -> Table:
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for number, title in enumerate(titles):
        shown.add_column(title, no_wrap=number > 0, overflow="fold")
    return shown


def _add(shown: Table, cells: Sequence[str]) -> None:
    # Names come from messages: text, never markup, and nothing that a terminal obeys.
    shown.add_row(*(Text(printable(cell)) for cell in cells))


def _cost_title(prices: Prices | None) -> list[str]:
    return [] if prices is None else [" ".join(filter(None, ("COST", printable(prices.currency))))]


def _cost(cost: float | None) -> list[str]:
    # A task may cost a thousandth of a cent.
    return [] if cost is None else [f"{cost:.2f}" if cost >= 1 else f"{cost:.2g}"]
