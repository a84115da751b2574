"""``python -m benchmarks.flood [--megabytes N] [--runs N]``: what it costs that a task's output is kept.

A task that prints N MB of short lines, against the same program under ``docker run`` with the json-file driver, and
what the worker's memory grows by meanwhile. In turn: A B A B …, so that the machine's moods meet both.
"""

import argparse
import statistics
import subprocess
import threading
import time

from rich.console import Console
from rich.table import Table

from cellwork import logs

from .workers import Variant, variants

IMAGE = "cellwork/python:base"

#: What the task does, line by line as the runner prints.
PROGRAM = """\
import sys
sys.stdout.reconfigure(line_buffering=True)
line = "x" * 99 + "\\n"
for _ in range({count}):
    sys.stdout.write(line)
"""


def under_docker(count: int) -> float:
    """Seconds of ``docker run`` of the same program; what it prints is read and thrown away."""
    limits = ["--network=none", "--memory=512m", "--cpus=1", "--user=65534:65534", "--read-only"]
    command = ["docker", "run", "--rm", "--log-driver=json-file", "--log-opt=max-size=10m", *limits, IMAGE]
    began = time.perf_counter()
    subprocess.run([*command, "python3", "-c", PROGRAM.format(count=count)], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


class Peak:
    """The worker's largest memory while it is entered."""

    def __init__(self, variant: Variant) -> None:
        self._variant = variant
        self._over = threading.Event()
        self.before = self.bytes = variant.rss()

    def __enter__(self) -> "Peak":
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.bytes = max(self.bytes, self._variant.rss())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flood")
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    count = options.megabytes * 10_000
    pairs, growth, kept, dropped = [], [], 0, 0
    with variants(["ours"], concurrency=1) as (ours,):
        ours.noop.delay().get(timeout=120)
        flood = ours.app.tasks["ours.flood"]
        for _ in range(options.runs):
            bare = under_docker(count)
            with Peak(ours) as peak:
                began = time.perf_counter()
                result = flood.delay(count)
                result.get(timeout=600)
                pairs.append((bare, time.perf_counter() - began))
            growth.append(peak.bytes - peak.before)
            lines = list(logs(result.id, app=ours.app))
            kept = sum(line.stream == "stdout" for line in lines)
            dropped = sum(int(line.text.split()[0]) for line in lines if line.stream == "cellwork")
            assert kept + dropped == count, "every line is kept or counted"
    table = Table("", "median", "min", "max", title=f"a task that prints {options.megabytes} MB in lines of 100 bytes")
    rows = {"docker run, seconds": [a for a, _ in pairs], "task, seconds": [b for _, b in pairs]}
    rows |= {"ratio": [b / a for a, b in pairs], "worker grows, MiB": [n / (1 << 20) for n in growth]}
    for name, values in rows.items():
        table.add_row(name, *(f"{f(values):.2f}" for f in (statistics.median, min, max)))
    Console(width=100).print(table)
    print(f"of the last run {kept} lines are kept, {dropped} are counted as dropped")


if __name__ == "__main__":
    main()
