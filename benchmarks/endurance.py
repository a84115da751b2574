"""``python -m benchmarks.endurance docker|process|misbehaving|queue N``: what a worker is like after many tasks.

Its resident memory after N of them, in containers or in processes, against after 200, or while N misbehave in
containers; or its throughput on a queue of N waiting messages against a short one: in turn, from one worker, so that
the machine's moods meet both.
"""

import argparse
import os
import statistics
import time
from typing import Any

import psutil
from rich.console import Console

from .workers import Variant, variants

console = Console(width=120)

#: After which the memory is compared: everything that is made lazily is there by then.
WARMED_UP = 200

_SHORT_QUEUE, _ROUNDS, _TASKS = 1000, 6, 150


def resident(variant: Variant) -> int:
    """Bytes of the worker itself; its sandboxes, where they are processes, come and go."""
    return int(psutil.Process(variant.process.pid).memory_info().rss)


def run(task: Any, number: int, inflight: int = 8) -> None:
    """So many tasks, each with its result read."""
    pending: list[Any] = []
    for _ in range(number):
        pending.append(task.delay())
        if len(pending) == inflight:
            pending.pop(0).get(timeout=120)
    for result in pending:
        result.get(timeout=120)


def memory(executor: str, total: int) -> None:
    os.environ["CELLWORK_EXECUTOR"] = executor
    with variants(["ours"], concurrency=4) as (ours,):
        run(ours.noop, WARMED_UP)
        before, began, done = resident(ours), time.monotonic(), WARMED_UP
        while done < total:
            step = min(max(total // 5, 1), total - done)
            run(ours.noop, step)
            done += step
            grown = resident(ours) / before
            rate = (done - WARMED_UP) / (time.monotonic() - began)
            console.print(f"{executor}: {done} tasks, {before / 2**20:.1f} MiB × {grown:.3f}, {rate:.1f} tasks/s")


def misbehaving(total: int) -> None:
    """Tasks of all kinds that misbehave, in turn, eight in flight; the memory after 20 of them and after every 100."""
    with variants(["misbehaving"], concurrency=4) as (worker,):
        import misbehaving as app  # where `variants` has found it

        pending: list[Any] = []
        for number in range(total):
            pending.append(app.CALLS[number % len(app.CALLS)]())
            done = number + 1
            asked = done in (20, total) or done % 100 == 0
            while pending and (asked or len(pending) == 8):
                pending.pop(0).get(timeout=120, propagate=False)
            if asked:
                console.print(f"misbehaving: {done} tasks, {resident(worker) / 2**20:.1f} MiB")


def _fill(app: Any, task: Any, queue: str, number: int) -> None:
    with app.producer_pool.acquire(block=True) as producer:
        for _ in range(number):
            task.apply_async(queue=queue, producer=producer, ignore_result=True)


def _rate(app: Any, client: Any, queue: str) -> float:
    """Tasks a second that leave `queue`, once its worker has settled."""
    app.control.add_consumer(queue, reply=True)
    start = client.llen(queue)
    while client.llen(queue) > start - 20:
        time.sleep(0.005)
    began, first = time.perf_counter(), client.llen(queue)
    while (left := client.llen(queue)) > first - _TASKS:
        time.sleep(0.005)
    rate = (first - left) / (time.perf_counter() - began)
    app.control.cancel_consumer(queue, reply=True)
    return float(rate)


def long_queue(length: int) -> None:
    import redis

    os.environ["CELLWORK_EXECUTOR"] = "process"
    with variants(["ours"], concurrency=4) as (ours,):
        client = redis.Redis.from_url(os.environ["CELERY_BROKER_URL"])
        sizes = {"short": _SHORT_QUEUE + _ROUNDS * 2 * _TASKS, "long": length}
        for queue, size in sizes.items():
            _fill(ours.app, ours.noop, queue, size)
        rates: dict[str, list[float]] = {queue: [] for queue in sizes}
        for _ in range(_ROUNDS):
            for queue, found in rates.items():
                found.append(_rate(ours.app, client, queue))
        for queue, found in rates.items():
            client.delete(queue)
            spread = f"{min(found):.1f} to {max(found):.1f}"
            console.print(f"{sizes[queue]} waiting: median {statistics.median(found):.1f} tasks/s, {spread}")
        ratios = [a / b for a, b in zip(rates["long"], rates["short"], strict=True)]
        console.print(f"ratio: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endurance")
    parser.add_argument("part", choices=("docker", "process", "misbehaving", "queue"))
    parser.add_argument("number", type=int, help="tasks, or messages that wait")
    options = parser.parse_args()
    if options.part == "queue":
        long_queue(options.number)
    elif options.part == "misbehaving":
        misbehaving(options.number)
    else:
        memory(options.part, options.number)


if __name__ == "__main__":
    main()
