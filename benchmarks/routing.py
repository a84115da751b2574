"""``python -m benchmarks.routing [--decisions N] [--rounds N]``: what the router takes to decide, without overflow."""

import argparse
import statistics
import time
from collections.abc import Callable

from celery import Celery

from cellwork import configure, router, spec

#: Ten, of every kind of condition; the task of the benchmark is none of theirs, so that each is tried.
RULES = [
    {"match": {"task": f"team{number}.*", condition: value}, "executor": "kubernetes"}
    for number, (condition, value) in enumerate(
        [("memory", ">=8g"), ("cpus", ">4"), ("gpus", ">0"), ("time_limit", ">3600"), ("args.rows", ">1000000")] * 2
    )
]
HEAVY = {"memory": "4g", "cpus": 4, "gpus": 0, "time_limit": 3600}


def deciders() -> dict[str, Callable[[], router.Route]]:
    """What each is called, and one whole decision of it: with the defaults of the installation, as in `apply_async`."""
    app = configure(Celery("routing", broker="memory://"), route=RULES, heavy=HEAVY, unserved="off")
    one = router.of(app)

    def decider(name: str, **options: object) -> Callable[[], router.Route]:
        declared = spec.parse(name, options)
        return lambda: one.decide(one.asked(name=name, declared=declared, kwargs={"rows": 10}, parameters=("rows",)))

    return {
        "the first rule decides": decider("team0.train", memory="32g"),
        "none of ten rules, a threshold decides": decider("shop.train", memory="32g"),
        "none of ten rules, no threshold": decider("shop.total", memory="256m"),
    }


def measure(decide: Callable[[], router.Route], decisions: int) -> list[float]:
    """Microseconds of each."""
    found = []
    for _ in range(decisions):
        began = time.perf_counter_ns()
        decide()
        found.append((time.perf_counter_ns() - began) / 1000)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.routing")
    parser.add_argument("--decisions", type=int, default=100_000, help="of each kind, in all rounds together")
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    measured = deciders()
    rounds: dict[str, list[list[float]]] = {name: [] for name in measured}
    worked = dict.fromkeys(measured, 0.0)
    for _ in range(given.rounds):
        # In turn, so that the machine's moods meet all alike.
        for name, decide in measured.items():
            began = time.thread_time_ns()
            rounds[name].append(measure(decide, given.decisions // given.rounds))
            worked[name] += (time.thread_time_ns() - began) / 1000
    for name, found in rounds.items():
        whole = [one for figures in found for one in figures]
        medians = [statistics.median(figures) for figures in found]
        print(
            f"{name}: median {statistics.median(whole):.1f} µs ({min(medians):.1f} to {max(medians):.1f} by round), "
            f""
            f"p99 {statistics.quantiles(whole, n=100)[98]:.1f} µs, processor {worked[name] / len(whole):.1f} µs"
        )


if __name__ == "__main__":
    main()
