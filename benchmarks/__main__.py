"""``python -m benchmarks``: tables, and a file of all raw figures; ``--help`` has what can be left out."""

import argparse
import json
import os
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
from .workers import Variant, variants

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


#: One round of a throughput figure is that many tasks for each in flight.
ROUND = 4

#: Tasks, in flight, to tasks a second.
Rate = Callable[[int, int], float]


def ceiling(tasks: int, inflight: int) -> float:
    """Containers a second that bare engine calls reach."""
    with ThreadPoolExecutor(inflight) as threads:
        local = threading.local()

        def one(_: int) -> None:
            local.bare = bare = getattr(local, "bare", None) or Bare()
            bare()

        began = time.perf_counter()
        list(threads.map(one, range(tasks)))
        return tasks / (time.perf_counter() - began)


def throughput(task: Any) -> Rate:
    """Tasks a second with so many of them waiting or running at any time."""

    def rate(tasks: int, inflight: int) -> float:
        began = time.perf_counter()
        pending = [task.delay() for _ in range(inflight)]
        for _ in range(tasks - inflight):
            pending.pop(0).get(timeout=120)
            pending.append(task.delay())
        for result in pending:
            result.get(timeout=120)
        return tasks / (time.perf_counter() - began)

    return rate


def rates(measured: dict[str, Rate], inflight: int, rounds: int) -> dict[str, list[float]]:
    """Tasks a second of each in every round, in turn: A B C A B C …; a first round is not counted."""
    found: dict[str, list[float]] = {name: [] for name in measured}
    for number in range(rounds + 1):
        for name, rate in measured.items():
            reached = rate(ROUND * inflight, inflight)
            if number:
                found[name].append(reached)
    return found


def print_rates(found: dict[int, dict[str, list[float]]]) -> None:
    table = Table("in flight", "", "median", "min", "max", "ours, cold / this", "min", "max", title="tasks a second")
    for inflight, by_name in found.items():
        for name, reached in by_name.items():
            ratios = [ours / other for ours, other in zip(by_name["ours, cold"], reached, strict=True)]
            figures = [f(values) for values in (reached, ratios) for f in (statistics.median, min, max)]
            table.add_row(str(inflight), name, *(f"{figure:.2f}" for figure in figures))
        table.add_section()
    console.print(table)


def worker(ours: Variant, task: Any, tasks: int) -> dict[str, float]:
    """What so many tasks, eight in flight, cost our worker: resident bytes before and after, processor time of each."""
    before, cpu = ours.rss(), ours.cpu()
    throughput(task)(tasks, 8)
    spent = (ours.cpu() - cpu) / tasks * 1000
    return {"rss_before": before, "rss_after": ours.rss(), "cpu_ms_a_task": round(spent, 2)}


def print_latency(seconds: dict[str, list[float]], base: str, how: str) -> None:
    table = Table(
        "",
        "min",
        "p50",
        "p95",
        "p99",
        "max",
        f"p50 / {base}",
        "p99 / its",
        title=f"delay() → get(), milliseconds, {how}",
    )
    for name, values in seconds.items():
        ratio = statistics.median(v / b for v, b in zip(values, seconds[base], strict=True))
        figures = [min(values), *(percentile(values, p) for p in (0.5, 0.95, 0.99)), max(values)]
        tail = percentile(values, 0.99) / percentile(seconds[base], 0.99)
        table.add_row(name, *(f"{v * 1000:.1f}" for v in figures), f"{ratio:.2f}", f"{tail:.2f}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--calls", type=int, default=60, help="calls of each thing compared; 0 leaves that out")
    parser.add_argument("--paced", type=int, default=100, help="calls at two a second; 0 leaves that out")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each throughput figure")
    parser.add_argument("--inflight", default="1,2,4,8", help="tasks that wait or run at a time, a figure for each")
    parser.add_argument("--tasks", type=int, default=200, help="over which the worker's processor time is taken")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results.json"), help="all raw figures")
    options = parser.parse_args()
    inflights = [int(number) for number in options.inflight.split(",")]
    results: dict[str, Any] = {"python": platform.python_version()}
    results |= {name: said for name, said in vars(options).items() if name != "output"}
    results["load_before"] = os.getloadavg()
    with variants(["plain", "handwritten", "ours"], concurrency=8) as running:
        by_name = {variant.name: variant for variant in running}
        ours = by_name["ours"]
        cold = ours.app.tasks["ours.cold"]
        measured: dict[str, Callable[[], float]] = {variant.name: round_trip(variant.noop) for variant in running}
        measured["ours, cold"] = round_trip(cold)
        direct = Direct()
        measured |= {"bare engine calls": Bare(), "executor, no queue": direct}
        if options.calls:
            results["latency"] = latency(measured, options.calls)
            print_latency(results["latency"], "handwritten", "one after the other")
        direct.close()
        if options.paced:
            both = {name: measured[name] for name in ("plain", "ours")}
            results["paced"] = paced(both, options.paced)
            print_latency(results["paced"], "plain", "two a second of each")

        by_hand = by_name["handwritten"]
        compared: dict[str, Rate] = {
            "bare engine calls, no network": ceiling,
            "handwritten": throughput(by_hand.noop),
            "handwritten, no network": throughput(by_hand.app.tasks["handwritten.alone"]),
            "ours, cold": throughput(cold),
            "ours": throughput(ours.noop),
        }
        results["throughput"] = {inflight: rates(compared, inflight, options.rounds) for inflight in inflights}
        print_rates(results["throughput"])
        results["worker"] = {
            name: worker(ours, task, options.tasks) for name, task in (("cold", cold), ("", ours.noop))
        }
        console.print(results["worker"])
    results["load_after"] = os.getloadavg()
    options.output.write_text(json.dumps(results, indent=1) + "\n")


main()
