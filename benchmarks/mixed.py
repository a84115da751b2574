"""``python -m benchmarks.mixed [--tasks N]``: a mixed load of tasks that say nothing of their needs, on one host.

Five tasks that fill 20, 60, 150, 400 and 700 MB for three seconds, in turn; eight slots, 2 GiB of memory for all of
them. First with the defaults (512 MiB each, ``memory_max="2g"``) and nothing known, then with ``learn="on"`` and what
the first ones have taught.
"""

import argparse
import time
from collections import Counter
from typing import Any

from cellwork.broker import Broker
from cellwork.usagestore import UsageStore

from .workers import variants

HOST, SIZES, SECONDS = 2 << 30, (20, 60, 150, 400, 700), 3.0


def load(app: Any, count: int, **options: Any) -> tuple[float, float]:
    """Seconds that `count` tasks took, and when they began."""
    began, start = time.time(), time.perf_counter()
    sent = []
    for number in range(count):
        size = SIZES[number % len(SIZES)]
        sent.append(app.tasks[f"ours.holds{size}"].apply_async((SECONDS,), **options))
    for result in sent:
        result.get(timeout=3600)
    return time.perf_counter() - start, began


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mixed")
    parser.add_argument("--tasks", type=int, default=200)
    options = parser.parse_args()
    with variants(["ours"], concurrency=8, CELLWORK_HOST_MEMORY=str(HOST)) as (ours,):
        broker = Broker(ours.app)
        for learn in ("off", "on"):
            if learn == "on":
                load(ours.app, len(SIZES), learn=learn)
                time.sleep(2)  # the producer's look at what they used
            seconds, began = load(ours.app, options.tasks, learn=learn)
            time.sleep(1)  # the last of them is written
            runs = list(UsageStore(broker).runs(began))
            outcomes = Counter(run.outcome for run in runs)
            held = sum((run.peak_memory_bytes or 0) * (run.run_seconds or 0) for run in runs) / (HOST * seconds)
            asked = sorted({(run.memory_bytes or 0) >> 20 for run in runs})
            print(
                f"learn={learn}: {seconds:.1f} s, {outcomes['out-of-memory']} killed for memory, MiB asked {asked}, "
                f"{held:.0%} of the host's memory used"
            )
        broker.close()


if __name__ == "__main__":
    main()
