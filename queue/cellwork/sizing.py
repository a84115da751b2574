"""What a task should ask for, from what its runs used. Pure."""

import math

import msgspec

from .quantity import format_bytes
from .usage import Summary

#: Before so many runs nothing is said.
LEAST_RUNS = 20

#: Sizes are told in steps, and never below the first one: the interpreter and the runner need it.
_LEAST_MEMORY, _STEP = 64 << 20, 16 << 20

#: Processors: never less than one, for a mean tells nothing of a task's busy moments, and a limit of a quarter makes
#: each of them four times as long (a mixed load took 1.12 times as long with it as without learning); above that in
#: steps, and how much a task may use more than one before it gets the next.
_LEAST_CPUS, _CPUS, _SLACK = 1.0, 0.25, 0.05


class Suggestion(msgspec.Struct, frozen=True):
    """For one task: bytes, processors."""

    task: str
    runs: int
    memory: int
    cpus: float
    #: Of 95 % of its runs: bytes at most, seconds at most.
    p95_memory: int
    p95_run_seconds: float

    @property
    def decorator(self) -> str:
        """As it is to be written."""
        return f'@app.task(memory="{self.memory >> 20}m", cpus={self.cpus:g})'

    @property
    def why(self) -> str:
        """For people."""
        return f"{self.runs} runs, 95 % of them within {format_bytes(self.p95_memory)} and {self.p95_run_seconds:.3g} s"


def suggest(summary: Summary, headroom: float) -> Suggestion | None:
    """What it should ask for; None: too few runs, or nothing measured.

    Args:
        summary: of its runs. Those that were killed for memory are in it with their limit, so that more is told.
        headroom: how many times the memory of 95 % of the runs. Processors get none: with too few a task is slower.
    """
    peak, seconds = summary.quantiles.get("peak_memory_bytes"), summary.quantiles.get("run_seconds")
    cpu = summary.quantiles.get("cpu_seconds")
    if peak is None or seconds is None or cpu is None or peak.count < LEAST_RUNS:
        return None
    memory = max(_LEAST_MEMORY, math.ceil(peak.p95 * headroom / _STEP) * _STEP)
    used = max(cpu.p95 / max(seconds.p95, 0.001), summary.cpu_seconds / max(summary.run_seconds, 0.001))
    cpus = max(_LEAST_CPUS, math.ceil((used - _SLACK) / _CPUS) * _CPUS)
    return Suggestion(summary.task, summary.runs, memory, cpus, int(peak.p95), seconds.p95)
