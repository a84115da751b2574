"""``python -m benchmarks [--calls N] [--quick]``: prints tables, writes benchmarks/results.json."""

import argparse
import json
import platform
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .bare import Bare, Direct
from .workers import variants

console = Console(width=120)


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of `values` lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


#: Seconds after each call: the one before has its container removed, or its warm sandbox replaced, by then.
SETTLED = 0.4


def latency(measured: dict[str, Callable[[], float]], calls: int) -> dict[str, list[float]]:
    """`calls` of each, in turn: A B C A B C …, so that the machine's moods meet all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in measured}
    for call in measured.values():
        call()  # not counted: connections, caches
    for _ in range(calls):
        for name, call in measured.items():
            seconds[name].append(call())
            threading.Event().wait(SETTLED)
    return seconds


def round_trip(task: Any) -> Callable[[], float]:
    """One `delay()` to `get()`, in seconds."""

    def call() -> float:
        began = time.perf_counter()
        task.delay().get(timeout=120)
        return time.perf_counter() - began

    return call


def paced(measured: dict[str, Callable[[], float]], calls: int) -> dict[str, list[float]]:
    """`calls` of each at two a second, in turn: as tasks come in practice, with a moment between them."""
    seconds: dict[str, list[float]] = {name: [] for name in measured}
    due = time.perf_counter()
    for _ in range(calls):
        for name, call in measured.items():
            due += 0.5 / len(measured)
            threading.Event().wait(max(0.0, due - time.perf_counter()))
            seconds[name].append(call())
    return seconds


def ceiling(inflight: int, tasks: int) -> float:
    """Containers a second that bare engine calls reach."""
    with ThreadPoolExecutor(inflight) as threads:
        local = threading.local()

        def one(_: int) -> None:
            local.bare = bare = getattr(local, "bare", None) or Bare()
            bare()

        began = time.perf_counter()
        list(threads.map(one, range(tasks)))
        return tasks / (time.perf_counter() - began)


def throughput(task: Any, inflight: int, tasks: int) -> float:
    """Tasks a second with `inflight` of them waiting or running at any time."""
    began = time.perf_counter()
    pending = [task.delay() for _ in range(inflight)]
    for _ in range(tasks - inflight):
        pending.pop(0).get(timeout=120)
        pending.append(task.delay())
    for result in pending:
        result.get(timeout=120)
    return tasks / (time.perf_counter() - began)


def print_latency(seconds: dict[str, list[float]], base: str, how: str) -> None:
    table = Table("", "min", "p50", "p95", "p99", "max", f"p50 / {base}", title=f"delay() → get(), milliseconds, {how}")
    for name, values in seconds.items():
        ratio = statistics.median(v / b for v, b in zip(values, seconds[base], strict=True))
        figures = [min(values), *(percentile(values, p) for p in (0.5, 0.95, 0.99)), max(values)]
        table.add_row(name, *(f"{v * 1000:.1f}" for v in figures), f"{ratio:.2f}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--calls", type=int, default=60, help="calls of each thing compared")
    parser.add_argument("--paced", type=int, default=100, help="calls at two a second; 0 leaves that out")
    parser.add_argument("--tasks", type=int, default=60, help="tasks of each throughput figure")
    options = parser.parse_args()
    results: dict[str, Any] = {"python": platform.python_version(), "calls": options.calls}
    with variants(["plain", "handwritten", "ours"], concurrency=8) as running:
        by_name = {variant.name: variant for variant in running}
        ours = by_name["ours"]
        cold = ours.app.tasks["ours.cold"]
        measured: dict[str, Callable[[], float]] = {variant.name: round_trip(variant.noop) for variant in running}
        measured["ours, cold"] = round_trip(cold)
        direct = Direct()
        measured |= {"bare engine calls": Bare(), "executor, no queue": direct}
        seconds = latency(measured, options.calls)
        direct.close()
        results["latency"] = seconds
        print_latency(seconds, "handwritten", "one after the other")
        if options.paced:
            both = {name: measured[name] for name in ("plain", "ours")}
            results["paced"] = paced(both, options.paced)
            print_latency(results["paced"], "plain", "two a second of each")

        columns = ("in flight", "bare calls", "handwritten", "ours, cold", "ours", "cold / bare", "cold / handwritten")
        rates = Table(*columns, title="containers a second")
        results["throughput"] = {}
        for inflight in (1, 2, 4, 8):
            sent = [
                throughput(task, inflight, options.tasks) for task in (by_name["handwritten"].noop, cold, ours.noop)
            ]
            found = [ceiling(inflight, options.tasks), *sent]
            results["throughput"][inflight] = found
            ratios = [found[2] / found[0], found[2] / found[1]]
            rates.add_row(str(inflight), *(f"{figure:.2f}" for figure in (*found, *ratios)))
        console.print(rates)

        before, cpu = ours.rss(), ours.cpu()
        throughput(ours.noop, 8, 200)
        results["worker"] = {
            "rss_before": before,
            "rss_after_200_more": ours.rss(),
            "cpu_ms_a_task": (ours.cpu() - cpu) / 200 * 1000,
        }
        console.print({name: round(value, 1) for name, value in results["worker"].items()})
    Path(__file__).with_name("results.json").write_text(json.dumps(results, indent=1) + "\n")


main()
