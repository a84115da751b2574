"""The sandboxes that run in this worker now: what ``cellwork ps`` lists."""

import logging
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from typing import Any

import msgspec
from celery.worker.control import inspect_command

from cellwork.errors import CellworkError
from cellwork_worker.executors.base import Executor, Metered, Usage
from cellwork_worker.launch import Launch

logger = logging.getLogger("cellwork.worker")

#: Asks of an engine at once: each takes it a second or two, and occupies a connection.
_ASKS = 8

#: Seconds for which a figure is shown.
_FRESH = 5.0

#: Most seconds that the event loop's thread waits for figures.
_MAX_WAIT = 0.3


class Running(msgspec.Struct, eq=False):
    """One of them."""

    launch: Launch
    executor_name: str
    executor: Executor
    #: By `time.monotonic`.
    since: float
    #: ``waiting`` (for room on its host), ``starting``, ``running``.
    status: str = "waiting"
    usage: Usage | None = None
    asked: "Future[None] | None" = None
    answered: float | None = None


class Sandboxes:
    """What runs; asked from the event loop's thread, told from the slots'."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, Running] = {}
        self._asks = ThreadPoolExecutor(_ASKS, thread_name_prefix="usage")

    @contextmanager
    def entered(self, launch: Launch, executor_name: str, executor: Executor) -> Iterator[None]:
        """While it is there."""
        with self._lock:
            self._running[launch.id] = Running(launch, executor_name, executor, time.monotonic())
        try:
            yield
        finally:
            with self._lock:
                self._running.pop(launch.id, None)

    def starting(self, sandbox: str) -> None:
        """It has room."""
        with self._lock:
            if (running := self._running.get(sandbox)) is not None:
                running.since, running.status = time.monotonic(), "starting"

    def started(self, sandbox: str) -> None:
        """It runs."""
        with self._lock:
            if (running := self._running.get(sandbox)) is not None:
                running.since, running.status = time.monotonic(), "running"

    def rows(self, wait: float) -> list[dict[str, Any]]:
        """What runs, with the figures that are here within `wait` seconds; the others are asked for meanwhile."""
        with self._lock:
            running = list(self._running.values())
        now = time.monotonic()
        for one in running:
            idle = one.asked is None or one.asked.done()
            if idle and one.status == "running" and (one.answered is None or now - one.answered > _FRESH):
                one.asked = self._asks.submit(_measure, one)
        wait_for([one.asked for one in running if one.asked is not None], min(wait, _MAX_WAIT))
        return [_row(one) for one in running]

    def close(self) -> None:
        """Ask no more."""
        self._asks.shutdown(wait=False, cancel_futures=True)


def _measure(one: Running) -> None:
    try:
        if isinstance(one.executor, Metered):
            one.usage = one.executor.usage(one.launch.id)
    except CellworkError as error:
        one.usage = None
        logger.warning("cannot measure sandbox %s: %s", one.launch.id, error)
    except Exception:
        logger.exception("measuring sandbox %s failed", one.launch.id)
    finally:
        one.answered = time.monotonic()


def _row(one: Running) -> dict[str, Any]:
    launch, usage = one.launch, one.usage
    return {
        "sandbox": launch.id,
        "task": launch.task,
        "task_id": launch.task_id,
        "executor": one.executor_name,
        "image": launch.spec.image if one.executor_name != "process" else None,
        "status": one.status,
        "seconds": round(time.monotonic() - one.since, 1),
        "cpu_percent": None if usage is None else round(usage.cpu_percent, 1),
        "memory_bytes": None if usage is None else usage.memory_bytes,
        "memory_limit_bytes": None if usage is None else usage.memory_limit_bytes,
        "measured": one.answered is not None or one.status != "running",
        "host": socket.gethostname(),
    }


@inspect_command(name="cellwork_ps", args=[("wait", float)], signature="[wait=0]")
def ps(state: Any, wait: float = 0.0, **_: Any) -> list[dict[str, Any]]:
    """The sandboxes of this worker, with live figures."""
    sandboxes = getattr(state.consumer.pool, "sandboxes", None)
    return sandboxes.rows(float(wait)) if isinstance(sandboxes, Sandboxes) else []
