"""``make chaos SEEDS=50``: the long form. Prints a line for each seed, and the figures of all of them."""

import argparse
import os
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from .driver import Figures, Run


def percentile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))] if values else 0.0


def summary(all_: list[Figures]) -> str:
    faults: Counter[str] = Counter()
    for figures in all_:
        faults.update(figures.faults)
    recovery = sorted(seconds for figures in all_ for seconds in figures.recovery)
    return (
        f"{len(all_)} seeds, {sum(f.tasks for f in all_)} tasks, {sum(faults.values())} faults {dict(faults)}: "
        f"{sum(len(f.lost) for f in all_)} lost, {sum(len(f.doubled) for f in all_)} doubled, "
        f"{sum(len(f.left) for f in all_)} left, {sum(len(f.died) for f in all_)} workers ended; "
        f"recovery of {len(recovery)} tasks: p50 {percentile(recovery, 0.5):.1f} s, "
        f"p99 {percentile(recovery, 0.99):.1f} s"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="chaos")
    parser.add_argument("--seeds", type=int, default=3)
    first = int(os.environ.get("CHAOS_SEED") or random.randrange(10**6))
    parser.add_argument("--first", type=int, default=first, help="to repeat a run; also CHAOS_SEED")
    parser.add_argument("--keep", type=Path, default=None, help="a folder for the workers' logs")
    given = parser.parse_args()
    found = []
    for seed in range(given.first, given.first + given.seeds):
        print(f"seed {seed}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            found.append(Run(seed, (given.keep or Path(folder)) / str(seed)).run())
        print(f"  {'ok' if found[-1].ok else 'NOT OK'}: {found[-1]}", flush=True)
    print(summary(found))
    return 0 if all(figures.ok for figures in found) else 1


if __name__ == "__main__":
    sys.exit(main())
