"""``python -m benchmarks [--calls N] [--quick]``: prints tables, writes benchmarks/results.json."""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
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


def latency(measured: dict[str, Callable[[], float]], calls: int) -> dict[str, list[float]]:
    """`calls` of each, in turn: A B C A B C …, so that the machine's moods meet all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in measured}
    for call in measured.values():
        call()  # not counted: connections, caches
    for _ in range(calls):
        for name, call in measured.items():
            seconds[name].append(call())
    return seconds


def round_trip(variant: Variant) -> Callable[[], float]:
    """One `delay()` to `get()`, in seconds."""

    def call() -> float:
        began = time.perf_counter()
        variant.noop.delay().get(timeout=120)
        return time.perf_counter() - began

    return call


def throughput(variant: Variant, inflight: int, tasks: int) -> float:
    """Tasks a second with `inflight` of them waiting or running at any time."""
    began = time.perf_counter()
    pending = [variant.noop.delay() for _ in range(inflight)]
    for _ in range(tasks - inflight):
        pending.pop(0).get(timeout=120)
        pending.append(variant.noop.delay())
    for result in pending:
        result.get(timeout=120)
    return tasks / (time.perf_counter() - began)


def print_latency(seconds: dict[str, list[float]], base: str) -> None:
    table = Table("", "min", "p50", "p95", "p99", "max", f"p50 / {base}", title="delay() → get(), milliseconds")
    for name, values in seconds.items():
        ratio = statistics.median(v / b for v, b in zip(values, seconds[base], strict=True))
        figures = [min(values), *(percentile(values, p) for p in (0.5, 0.95, 0.99)), max(values)]
        table.add_row(name, *(f"{v * 1000:.1f}" for v in figures), f"{ratio:.2f}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--calls", type=int, default=60, help="calls of each thing compared")
    parser.add_argument("--tasks", type=int, default=60, help="tasks of each throughput figure")
    options = parser.parse_args()
    results: dict[str, Any] = {"python": platform.python_version(), "calls": options.calls}
    with variants(["plain", "handwritten", "ours"], concurrency=8) as running:
        by_name = {variant.name: variant for variant in running}
        measured: dict[str, Callable[[], float]] = {variant.name: round_trip(variant) for variant in running}
        direct = Direct()
        measured |= {"bare engine calls": Bare(), "executor, no queue": direct}
        seconds = latency(measured, options.calls)
        direct.close()
        results["latency"] = seconds
        print_latency(seconds, "handwritten")

        ours = by_name["ours"]
        rates = Table("in flight", "handwritten", "ours", "ours / handwritten", title="cold containers a second")
        results["throughput"] = {}
        for inflight in (1, 2, 4, 8):
            pair = [(throughput(by_name[name], inflight, options.tasks)) for name in ("handwritten", "ours")]
            results["throughput"][inflight] = pair
            rates.add_row(str(inflight), f"{pair[0]:.2f}", f"{pair[1]:.2f}", f"{pair[1] / pair[0]:.2f}")
        console.print(rates)

        before, cpu = ours.rss(), ours.cpu()
        throughput(ours, 8, 200)
        results["worker"] = {
            "rss_before": before,
            "rss_after_200_more": ours.rss(),
            "cpu_ms_a_task": (ours.cpu() - cpu) / 200 * 1000,
        }
        console.print({name: round(value, 1) for name, value in results["worker"].items()})
    Path(__file__).with_name("results.json").write_text(json.dumps(results, indent=1) + "\n")


main()
