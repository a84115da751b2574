"""``cellwork_*`` metrics, beside Flower's own and from the same events (docs/monitoring.md has the list)."""

from collections.abc import Iterator, Mapping
from typing import Any

from flower.events import PrometheusMetrics
from prometheus_client import Counter, Gauge, Histogram

#: Seconds: a warm start takes one or two milliseconds, a pull minutes.
_START = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_RUN = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)
_QUEUE = (0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600)
_MEMORY = tuple(float(1 << power) for power in range(23, 38))  # 8 MiB … 128 GiB

_ENDS = frozenset({"task-succeeded", "task-failed", "task-retried", "task-revoked"})


class Metrics(PrometheusMetrics):  # type: ignore[misc]
    """Told of every event that Flower gets, in its event loop."""

    def __init__(self) -> None:
        super().__init__()
        labels = ["worker", "executor"]
        self.starts = Counter("cellwork_starts", "Sandboxes started", [*labels, "start"])
        self.start_seconds = Histogram(
            "cellwork_start_seconds", "From a free slot to the running sandbox", [*labels, "start"], buckets=_START
        )
        self.pull_seconds = Histogram("cellwork_pull_seconds", "Of an image that was not there", labels, buckets=_START)
        self.run_seconds = Histogram("cellwork_run_seconds", "Of a sandbox", [*labels, "task"], buckets=_RUN)
        self.queue_seconds = Histogram(
            "cellwork_queue_seconds", "From sent, or due, to a slot", ["worker", "task"], buckets=_QUEUE
        )
        self.cpu_seconds = Counter("cellwork_cpu_seconds", "Processor time of sandboxes", [*labels, "task"])
        self.peak_memory = Histogram("cellwork_peak_memory_bytes", "Of a sandbox", [*labels, "task"], buckets=_MEMORY)
        moved = [*labels, "task", "direction"]
        self.network_bytes = Counter("cellwork_network_bytes", "Through the interfaces of sandboxes", moved)
        self.disk_bytes = Counter("cellwork_disk_bytes", "From and to block devices, by sandboxes", moved)
        self.outcomes = Counter("cellwork_outcomes", "Tries of tasks by how they ended", [*labels, "task", "outcome"])
        self.ooms = Counter("cellwork_ooms", "Sandboxes killed for memory", [*labels, "task"])
        self.adoptions = Counter("cellwork_adoptions", "Sandboxes that a second delivery went on with", labels)
        self.redeliveries = Counter("cellwork_redeliveries", "Tries that an earlier worker was given, too", labels)
        self.running = Gauge("cellwork_running", "Tasks in slots", ["worker"])
        #: By worker: ids of tasks.
        self._in_slots: dict[str, set[str]] = {}

    def observe_task(self, worker: str, event: Mapping[str, Any], task: Any) -> None:
        """An event of a task."""
        super().observe_task(worker, event, task)
        kind = event["type"]
        if kind == "task-started":
            self._slots(worker).add(str(event["uuid"]))
            self._observe(self.queue_seconds.labels(worker, task.name or ""), event, "queue_seconds")
        elif kind in _ENDS:
            self._slots(worker).discard(str(event["uuid"]))
            self._ended(worker, event, task.name or "")
        else:
            return
        self.running.labels(worker).set(len(self._slots(worker)))

    def observe_worker(self, worker: str, event: Mapping[str, Any]) -> None:
        """An event of a worker."""
        super().observe_worker(worker, event)
        # What it does not run any more: events may be lost, and workers die.
        if event["type"] == "worker-offline" or event.get("active") == 0:
            self._slots(worker).clear()
            self.running.labels(worker).set(0)

    def remove_workers(self, worker_names: set[str]) -> int:
        """Forget those workers."""
        removed = int(super().remove_workers(worker_names))
        for metric in self._ours():
            for labels in [one for one in metric._metrics if one and one[0] in worker_names]:
                metric.remove(*labels)
        for name in worker_names:
            self._in_slots.pop(name, None)
        return removed

    def _ended(self, worker: str, event: Mapping[str, Any], task: str) -> None:
        executor = _text(event, "executor") or "none"
        outcome = _text(event, "outcome") or ("success" if event["type"] == "task-succeeded" else event["type"][5:])
        self.outcomes.labels(worker, executor, task, outcome).inc()
        if start := _text(event, "start"):
            self.starts.labels(worker, executor, start).inc()
            self._observe(self.start_seconds.labels(worker, executor, start), event, "start_seconds")
            if start == "adopted":
                self.adoptions.labels(worker, executor).inc()
        self._observe(self.pull_seconds.labels(worker, executor), event, "pull_seconds")
        self._observe(self.run_seconds.labels(worker, executor, task), event, "run_seconds")
        self._observe(self.peak_memory.labels(worker, executor, task), event, "peak_memory_bytes")
        self.cpu_seconds.labels(worker, executor, task).inc(_amount(event, "cpu_seconds") or 0.0)
        for counter, medium, directions in (
            (self.network_bytes, "network", ("received", "sent")),
            (self.disk_bytes, "disk", ("read", "written")),
        ):
            for direction in directions:
                amount = _amount(event, f"{medium}_{direction}_bytes") or 0.0
                counter.labels(worker, executor, task, direction).inc(amount)
        self.ooms.labels(worker, executor, task).inc(_amount(event, "ooms") or 0.0)
        if event.get("redelivered") is True:
            self.redeliveries.labels(worker, executor).inc()

    def _slots(self, worker: str) -> set[str]:
        return self._in_slots.setdefault(worker, set())

    def _ours(self) -> Iterator[Any]:
        return (metric for metric in vars(self).values() if str(getattr(metric, "_name", "")).startswith("cellwork_"))

    def _observe(self, histogram: Any, event: Mapping[str, Any], name: str) -> None:
        if (value := _amount(event, name)) is not None:
            histogram.observe(value)


def _text(event: Mapping[str, Any], name: str) -> str | None:
    """Events come over the broker: a label is a short text, or none."""
    value = event.get(name)
    return value[:100] if isinstance(value, str) and value else None


def _amount(event: Mapping[str, Any], name: str) -> float | None:
    value = event.get(name)
    return float(value) if isinstance(value, int | float) and 0 <= value < 2.0**63 else None
