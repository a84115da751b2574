"""``python -m benchmarks.escalation``: a task that needs 3 GB and begins with 512 MB, and its next run."""

import time

from .workers import variants


def main() -> None:
    with variants(["ours"], concurrency=1) as (ours,):
        ours.noop.delay().get(timeout=120)
        task = ours.app.tasks["ours.needs"]
        for run in ("first", "next"):
            began = time.perf_counter()
            result = task.delay(3 * 10**9)
            result.get(timeout=600)
            seconds = time.perf_counter() - began
            meta = ours.app.backend.get_task_meta(result.id)
            tried = [size >> 20 for size in meta.get("cellwork", {}).get("memory_tried", [])]
            print(f"{run} run: {meta['status']} in {seconds:.1f} s; MiB tried: {tried or 'one size'}")


if __name__ == "__main__":
    main()
