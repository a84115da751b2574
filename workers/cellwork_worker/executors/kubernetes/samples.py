"""What pods use, as the cluster's metrics-server samples it: for those in which no runner measures."""

import logging
import threading
from dataclasses import dataclass, field
from datetime import datetime

from kubernetes.utils.quantity import parse_quantity

from cellwork.errors import EngineUnavailable
from cellwork_worker.executors.base import Usage

from .api import Api
from .connection import Refused
from .objects import PodMetrics
from .status import CONTAINER

logger = logging.getLogger("cellwork.worker")

#: Seconds between two looks: metrics-server measures that often, unless told otherwise.
_PERIOD = 15.0

#: Seconds before one that the cluster does not have, or does not show to this worker, is asked for again.
_REST = 600.0


@dataclass
class _Sampled:
    """Of one pod."""

    cores: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    #: Of the last sample.
    at: datetime | None = None


class Samples:
    """Of one namespace: one list for all of its pods. Its thread starts with the first; without any it rests."""

    def __init__(self, api: Api, namespace: str, selector: str) -> None:
        self._api = api
        self._namespace = namespace
        self._selector = selector
        self._lock = threading.Lock()
        self._sampled: dict[str, _Sampled] = {}
        self._wanted = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, name: str) -> None:
        """Look at the pod of that name, too."""
        with self._lock:
            self._sampled[name] = _Sampled()
            self._wanted.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"metrics-{self._namespace}", daemon=True)
                self._thread.start()

    def remove(self, name: str, seconds: float) -> dict[str, float]:
        """No more. What it has used in all the `seconds` that it ran, under the names of the runner's frame `usage`.

        Processor time is the samples' average; memory is the largest sample. Empty: it was never sampled.
        """
        with self._lock:
            found = self._sampled.pop(name, _Sampled())
            if not self._sampled:
                self._wanted.clear()
        if not found.cores:
            return {}
        mean = sum(found.cores) / len(found.cores)
        return {"cpu_seconds": mean * seconds, "peak_memory_bytes": max(found.memory)}

    def last(self, name: str, limit: int | None) -> Usage | None:
        """What it used when it was sampled last. None: it was not yet. `limit`: of its memory, bytes."""
        with self._lock:
            found = self._sampled.get(name, _Sampled())
            if not found.cores:
                return None
            return Usage(cpu_percent=found.cores[-1] * 100, memory_bytes=found.memory[-1], memory_limit_bytes=limit)

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            threading.Event().wait(_PERIOD)
            if not self._wanted.is_set():
                continue
            try:
                for pod in self._api.metrics(self._namespace, self._selector):
                    self._take(pod)
            except Refused as refused:
                logger.info("no figures of pods in %s, which has no metrics-server: %s", self._namespace, refused)
                threading.Event().wait(_REST)
            except EngineUnavailable as error:
                logger.warning("no figures of pods in %s now: %s", self._namespace, error)

    def _take(self, pod: PodMetrics) -> None:
        usage = next((one.usage for one in pod.containers if one.name == CONTAINER), {})
        with self._lock:
            found = self._sampled.get(pod.metadata.name)
            if (
                found is None
                or pod.timestamp is None
                or pod.timestamp == found.at
                or not {"cpu", "memory"} <= set(usage)
            ):
                return
            found.at = pod.timestamp
            found.cores.append(float(parse_quantity(usage["cpu"])))
            found.memory.append(int(parse_quantity(usage["memory"])))
