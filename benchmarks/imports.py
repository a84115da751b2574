"""``python -m benchmarks.imports [--calls N]``: what ``import cellwork`` adds to a producer that imports Celery."""

import argparse
import os
import statistics
import subprocess
import sys

#: `celery` alone is a lazy module; whoever declares a task needs the class.
PROGRAM = """\
import time
began = time.perf_counter()
from celery import Celery
celery = time.perf_counter()
import cellwork
print(celery - began, time.perf_counter() - celery)
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.imports")
    parser.add_argument("--calls", type=int, default=20)
    calls = parser.parse_args().calls
    found: list[list[float]] = []
    # With its bytecode, as whatever is installed has; empty means unset.
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    command = [sys.executable, "-c", PROGRAM]
    for number in range(calls + 1):
        printed = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
        if number:
            found.append([float(figure) * 1000 for figure in printed.split()])
    for name, figures in zip(("celery", "cellwork on top"), zip(*found, strict=True), strict=True):
        print(f"{name}: median {statistics.median(figures):.1f} ms, {min(figures):.1f} to {max(figures):.1f}")


if __name__ == "__main__":
    main()
