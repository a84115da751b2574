"""What a task should ask for, from what its runs used."""

import pytest

from cellwork import sizing
from cellwork.usage import Quantiles, Summary

MIB = 1 << 20


def summary(runs: int = 100, peak: float = 100 * MIB, cpu: float = 1.0, seconds: float = 2.0) -> Summary:
    quantiles = {
        name: Quantiles(runs, value, value, value)
        for name, value in (("peak_memory_bytes", peak), ("cpu_seconds", cpu), ("run_seconds", seconds))
    }
    sums = {"cpu_seconds": cpu * runs, "run_seconds": seconds * runs, "memory_gib_seconds": 0.0}
    return Summary(task="x", runs=runs, failed=0, quantiles=quantiles, **sums)


@pytest.mark.parametrize(
    ("used", "memory", "cpus"),
    [
        ({}, 128, 1.0),
        ({"peak": MIB}, 64, 1.0),
        ({"peak": 1000 * MIB}, 1264, 1.0),
        ({"cpu": 0.0}, 128, 1.0),
        ({"cpu": 2.02}, 128, 1.0),
        ({"cpu": 2.2}, 128, 1.25),
        ({"cpu": 7.0}, 128, 3.5),
    ],
)
def test_it_is_what_most_runs_used_with_room_for_more_memory(used, memory, cpus):
    found = sizing.suggest(summary(**used), headroom=1.25)
    assert (found.memory // MIB, found.cpus) == (memory, cpus)
    assert found.decorator == f'@app.task(memory="{memory}m", cpus={cpus:g})'


def test_after_a_few_runs_nothing_is_said():
    assert sizing.suggest(summary(runs=sizing.LEAST_RUNS - 1), headroom=1.25) is None
    nothing = {"runs": 50, "failed": 0, "cpu_seconds": 0.0, "run_seconds": 0.0, "memory_gib_seconds": 0.0}
    assert sizing.suggest(Summary(task="x", **nothing), headroom=1.25) is None
