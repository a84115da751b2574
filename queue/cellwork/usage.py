"""What one run of a task in one sandbox used, and what its runs used together. Pure."""

import math
from collections.abc import Iterable, Mapping

import msgspec

from .prices import Use

#: What is moved in and out.
TRAFFIC = ("network_received_bytes", "network_sent_bytes", "disk_read_bytes", "disk_written_bytes")

#: Figures of which the distribution is kept: seconds, processor-seconds, bytes.
MEASURES = (
    "queue_seconds",
    "pull_seconds",
    "start_seconds",
    "run_seconds",
    "cpu_seconds",
    "peak_memory_bytes",
    *TRAFFIC,
)

#: What `Run.outcome` says of one that gave its value.
SUCCESS = "success"

#: Not failures: the task goes on.
_GOES_ON = frozenset({SUCCESS, "retry"})

#: Buckets of a histogram in which values double: a value is told to within 9 %.
_PER_DOUBLING = 8

#: Below this, values are alike: a millisecond, a byte.
_LEAST = 0.001


class Run(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One sandbox's run, as its worker saw it. None: not known."""

    task: str
    task_id: str
    #: Celery's count of retries.
    retries: int = 0
    sandbox: str
    executor: str
    #: As the task names it, and the engine's id of what that name meant.
    image: str | None = None
    image_digest: str | None = None
    #: Its size, with its base, where the engine tells.
    image_bytes: int | None = None
    #: Celery's node name, and the machine it is on.
    worker: str
    host: str
    queue: str
    #: What the producer's router chose, and why.
    route: str | None = None
    reason: str | None = None
    #: ``success``, ``retry``, ``task-error``, ``revoked``, ``time-limit``, ``soft-time-limit``, or the kind of an
    #: error (cellwork.errors).
    outcome: str
    #: Exit status of a sandbox that was waited for: of every command, and of one that ended without an outcome.
    exit_status: int | None = None
    #: ``warm`` (started ahead of need), ``cold``, or ``adopted`` (started by an earlier delivery).
    start: str | None = None
    #: An earlier worker was given the same attempt.
    redelivered: bool = False
    #: Limits: processors, bytes; and devices that it had for itself.
    cpus: float | None = None
    memory_bytes: int | None = None
    gpus: int | None = None
    #: From sent (or due) to taken by a slot; from there to the running sandbox; from there to its outcome. Of the
    #: start, what the pull of its image took, where there was one.
    queue_seconds: float | None = None
    pull_seconds: float | None = None
    start_seconds: float | None = None
    run_seconds: float | None = None
    #: Of all its processes together, without the cache of files, as the runner reads it in the sandbox; of one that was
    #: killed for memory, its limit.
    peak_memory_bytes: int | None = None
    cpu_seconds: float | None = None
    #: Through its interfaces but the one to itself; from and to block devices.
    network_received_bytes: int | None = None
    network_sent_bytes: int | None = None
    disk_read_bytes: int | None = None
    disk_written_bytes: int | None = None
    #: Seconds since the epoch: when its sandbox was asked for, and when nothing more came from it.
    began: float | None = None
    ended: float

    @property
    def failed(self) -> bool:
        """It ended, and not well."""
        return self.outcome not in _GOES_ON

    def measured(self) -> dict[str, float]:
        """Those of `MEASURES` that are known."""
        found = {name: getattr(self, name) for name in MEASURES}
        return {name: float(value) for name, value in found.items() if value is not None}


class Quantiles(msgspec.Struct, frozen=True):
    """Of one measure: so many values, their median, the one that 95 % are not above, the largest."""

    count: int
    p50: float
    p95: float
    max: float


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What the runs of one task used."""

    task: str
    #: All that were counted, and those of them that failed.
    runs: int
    failed: int
    #: Added up over all of them: processor-seconds, seconds, seconds times GiB of memory limit and times GPUs, bytes.
    cpu_seconds: float
    run_seconds: float
    memory_gib_seconds: float
    gpu_seconds: float = 0.0
    network_bytes: float = 0.0
    #: By measure; of the newer ones, where there were many.
    quantiles: dict[str, Quantiles] = {}

    @property
    def use(self) -> Use:
        """What is paid for."""
        return Use(
            runs=self.runs,
            cpu_seconds=self.cpu_seconds,
            memory_gib_seconds=self.memory_gib_seconds,
            gpu_seconds=self.gpu_seconds,
            network_bytes=self.network_bytes,
        )


def bucket(value: float) -> int:
    """The bucket of a histogram that a value falls into."""
    return math.ceil(math.log2(max(value, _LEAST)) * _PER_DOUBLING)


def upper(index: int) -> float:
    """The largest value of a bucket."""
    return float(2 ** (index / _PER_DOUBLING))


def of_histogram(counts: Mapping[int, int]) -> Quantiles | None:
    """`counts`: by bucket. Values are the upper ends of buckets; None: there are none."""
    total = sum(counts.values())
    if total <= 0:
        return None
    ordered = sorted(index for index, count in counts.items() if count > 0)

    def at(share: float) -> float:
        seen = 0
        for index in ordered:
            seen += counts[index]
            if seen >= share * total:
                return upper(index)
        return upper(ordered[-1])

    return Quantiles(total, at(0.5), at(0.95), upper(ordered[-1]))


def of_values(values: Iterable[float]) -> Quantiles | None:
    """The same, exactly."""
    ordered = sorted(values)
    if not ordered:
        return None

    def at(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    return Quantiles(len(ordered), at(0.5), at(0.95), ordered[-1])


#: What is added up over runs, as `Summary` has it.
SUMS = ("cpu_seconds", "run_seconds", "memory_gib_seconds", "gpu_seconds", "network_bytes")


def sums(run: Run) -> dict[str, float]:
    """What a run adds to each of `SUMS`."""
    seconds = run.run_seconds or 0.0
    return {
        "cpu_seconds": run.cpu_seconds or 0.0,
        "run_seconds": seconds,
        "memory_gib_seconds": (run.memory_bytes or 0) / (1 << 30) * seconds,
        "gpu_seconds": (run.gpus or 0) * seconds,
        "network_bytes": (run.network_received_bytes or 0) + (run.network_sent_bytes or 0),
    }


def summarise(runs: Iterable[Run]) -> list[Summary]:
    """By task, the dearest in processor-seconds first."""
    by_task: dict[str, list[Run]] = {}
    for run in runs:
        by_task.setdefault(run.task, []).append(run)
    found = [_summary(task, of_task) for task, of_task in by_task.items()]
    return sorted(found, key=lambda summary: -summary.cpu_seconds)


def _summary(task: str, runs: list[Run]) -> Summary:
    measured = [run.measured() for run in runs]
    quantiles = {name: of_values(one[name] for one in measured if name in one) for name in MEASURES}
    added = [sums(run) for run in runs]
    return Summary(
        task=task,
        runs=len(runs),
        failed=sum(run.failed for run in runs),
        **{name: sum(one[name] for one in added) for name in SUMS},
        quantiles={name: found for name, found in quantiles.items() if found is not None},
    )
