"""``cellwork usage --plot``: what tasks used, as a picture."""

from pathlib import Path

import click

from cellwork.prices import Prices
from cellwork.printable import printable
from cellwork.usage import Summary

#: Tasks that a picture has, the dearest ones; and characters of a task's name, of which the end tells most.
_TASKS, _NAME = 20, 40

#: Inches.
_WIDTH, _HEIGHT, _LINE = 11.0, 1.2, 0.32

_MIB = 1 << 20


def draw(summaries: list[Summary], file: Path, prices: Prices | None) -> None:
    """Three panels, a line a task: what it used or cost in sum, how long it ran, how much memory it had.

    Raises:
        click.ClickException: matplotlib is missing, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise click.ClickException(f"--plot needs matplotlib ({error}): pip install 'cellwork[plot]'") from error
    shown = sorted(summaries, key=lambda one: prices.cost(one.use) if prices else one.cpu_seconds)[-_TASKS:]
    places = range(len(shown))
    figure = Figure(figsize=(_WIDTH, _HEIGHT + _LINE * max(len(shown), 2)), layout="constrained")
    total, seconds, memory = figure.subplots(1, 3, sharey=True)
    if prices is None:
        total.barh(places, [one.cpu_seconds for one in shown], color="#4c72b0")
        total.set_title("processor seconds, all runs")
    else:
        total.barh(places, [prices.cost(one.use) for one in shown], color="#4c72b0")
        total.set_title(f"cost of all runs, {_text(prices.currency)}".rstrip(", "))
    total.set_yticks(places, [f"{_text(one.task[-_NAME:])}  ({one.runs})" for one in shown])
    for axes, measure, unit, title in (
        (seconds, "run_seconds", 1, "seconds of a run"),
        (memory, "peak_memory_bytes", _MIB, "memory of a run, MiB"),
    ):
        known = [(place, one.quantiles[measure]) for place, one in enumerate(shown) if measure in one.quantiles]
        at = [place for place, _ in known]
        axes.hlines(at, [q.p50 / unit for _, q in known], [q.max / unit for _, q in known], color="#bbbbbb", zorder=1)
        for name, colour in (("p50", "#4c72b0"), ("p95", "#dd8452"), ("max", "#c44e52")):
            axes.scatter([getattr(q, name) / unit for _, q in known], at, label=name, color=colour, s=22, zorder=2)
        axes.set_xscale("log")
        axes.set_title(title)
    memory.legend(loc="lower right", fontsize="small")
    for axes in (total, seconds, memory):
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(file, dpi=120)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"cannot write {file}: {error}") from error


def _text(name: str) -> str:
    # A dollar would begin a formula.
    return printable(name).replace("$", r"\$")
