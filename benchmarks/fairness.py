"""``python -m benchmarks.fairness [--many N]``: how long one key's ten tasks wait beside another key's ten thousand.

Tasks are plain processes of the machine, so that the queue is measured and no engine. The same without keys, for
comparison, on a tenth of them: there the ten wait for all of the others.
"""

import argparse
import statistics
import time
from typing import Any

from .workers import variants


def waits(app: Any, count: int, key: str | None) -> list[float]:
    """Seconds from sent to started of `count` tasks."""
    task = app.tasks["ours.started"]
    sent = [(time.time(), task.apply_async(fair_key=key)) for _ in range(count)]
    return sorted(result.get(timeout=3600) - at for at, result in sent)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fairness")
    parser.add_argument("--many", type=int, default=10_000)
    options = parser.parse_args()
    with variants(["ours"], concurrency=2, CELLWORK_EXECUTOR="process") as (ours,):
        task = ours.app.tasks["ours.started"]
        waits(ours.app, 4, "few")
        for name, many, keys in (
            ("keys", options.many, ("few", "many")),
            ("no keys", options.many // 10, (None, None)),
        ):
            alone = waits(ours.app, 10, keys[0])
            began = time.perf_counter()
            for _ in range(many):
                task.apply_async(fair_key=keys[1], ignore_result=True)
            sending = time.perf_counter() - began
            beside = waits(ours.app, 10, keys[0])
            with ours.app.connection_for_write() as connection:
                left = connection.default_channel.queue_purge(ours.app.conf.task_default_queue)
            print(f"{name}: {many} sent in {sending:.1f} s, {left} of them wait when the ten have started")
            for what, found in (("alone", alone), ("beside them", beside)):
                print(f"  the ten waited {what}: p50 {statistics.median(found):.2f} s, p95 {found[-1]:.2f} s")


if __name__ == "__main__":
    main()
