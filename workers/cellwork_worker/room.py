"""What the machine of this worker's sandboxes has room for: a task that finds none waits in its slot.

Kubernetes does this for pods by itself. The sums are of limits, not of what is used: what a sandbox may use must be
there when it does.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf

from cellwork.errors import HostTooSmall
from cellwork.quantity import format_bytes
from cellwork.settings import Settings
from cellwork_worker.admission import Admission, Size
from cellwork_worker.executors.base import Executor, Hosted
from cellwork_worker.job import Ended, Job
from cellwork_worker.launch import Launch

logger = logging.getLogger("cellwork.worker")


class Room:
    """Of one worker; used from all of its slots."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._changed = threading.Condition()
        #: Made when the first task asks, for the engine may not answer before.
        self._admission: Admission | None = None
        self._host = Size(0, 0.0)

    @contextmanager
    def taken(self, executor: Executor, launch: Launch, job: Job, *, again: bool) -> Iterator[None]:
        """Have room for a sandbox while it runs; waits for that. `again`: it may be there already.

        Raises:
            HostTooSmall: there will never be.
            Ended: the task was ended while it waited.
            EngineUnavailable: the engine does not say what it has.
        """
        if not isinstance(executor, Hosted):
            yield
            return
        admission = self._learn(executor)
        size = Size(launch.spec.memory or 0, launch.spec.cpus or 0.0)
        if again and _is_there(executor, launch):
            with self._changed:
                admission.count(job, size)
        else:
            self._check(launch, size)
            self._wait(admission, job, launch, size)
        self._tell(admission, executor)
        try:
            yield
        finally:
            with self._changed:
                admission.leave(job)
                self._changed.notify_all()
            self._tell(admission, executor)

    def most_memory(self, executor: Executor) -> int | None:
        """Bytes that one sandbox can have; None: it is not for this worker to say.

        Raises:
            EngineUnavailable: the engine does not say what it has.
        """
        return self._learn(executor).total.memory if isinstance(executor, Hosted) else None

    def facts(self) -> dict[str, object]:
        """For whoever looks at the worker."""
        with self._changed:
            if (admission := self._admission) is None:
                return {}
            used, total = admission.used, admission.total
            told: dict[str, object] = {"memory_bytes": used.memory, "of_memory_bytes": total.memory}
            told |= {"cpus": round(used.cpus, 3), "waiting": admission.waiting}
            return {"room": told | ({} if total.cpus == inf else {"of_cpus": total.cpus})}

    def _learn(self, executor: Hosted) -> Admission:
        if self._admission is not None:
            return self._admission
        settings, engine = self._settings, executor.capacity()
        memory = settings.host_memory or max(0, engine.memory - settings.host_memory_reserve)
        cpus = settings.host_cpus or engine.cpus
        with self._changed:
            if self._admission is None:
                self._host = Size(memory, cpus)
                overcommit = settings.cpu_overcommit
                self._admission = Admission(Size(memory, cpus * overcommit if overcommit else inf))
                logger.info("this worker's sandboxes have %s and %g processors", format_bytes(memory), cpus)
            return self._admission

    def _check(self, launch: Launch, size: Size) -> None:
        host, where = self._host, f"task {launch.task}[{launch.task_id}]"
        if size.memory > host.memory:
            raise HostTooSmall(
                f"{where} asks for memory={format_bytes(size.memory)}, and this worker's host has "
                f"{format_bytes(host.memory)} for sandboxes (its engine's memory less host_memory_reserve, or "
                f"host_memory). Ask for less, or send it to a larger host or to Kubernetes"
            )
        if size.cpus > host.cpus:
            raise HostTooSmall(
                f"{where} asks for cpus={size.cpus:g}, and this worker's host has {host.cpus:g}. Ask for less, or send "
                f"it to a larger host or to Kubernetes"
            )

    def _wait(self, admission: Admission, job: Job, launch: Launch, size: Size) -> None:
        with self._changed:
            admission.ask(job, size)
            if job in admission:
                return
        began = time.monotonic()
        logger.info("%s waits for room: %s", launch.id, format_bytes(size.memory))
        try:
            # Whatever ends a job that runs ends this wait, too.
            job.starting(lambda signal: self._wake(), self._wake)
            with self._changed:
                self._changed.wait_for(lambda: job in admission or job.ended is not None)
            if job.ended is not None:
                raise Ended
        except BaseException:
            with self._changed:
                admission.leave(job)
                self._changed.notify_all()
            raise
        finally:
            job.stopped()
        if job.queue_seconds is not None:
            job.queue_seconds += time.monotonic() - began

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _tell(self, admission: Admission, executor: Hosted) -> None:
        with self._changed:
            executor.spare(max(0, admission.total.memory - admission.used.memory))


def _is_there(executor: Executor, launch: Launch) -> bool:
    """True where an earlier delivery's sandbox of this attempt runs on: it has its memory already."""
    names = {launch.id, launch.alias} - {""}
    return any(one.id in names or one.alias in names for one in executor.sandboxes())
