"""The Celery pool: slots, limits, revoke, autoscale, shutdown. Knows Celery, never Docker.

One thread a slot runs Celery's own trace of a task, in which only the body is replaced (body.py). Everything that
Celery must be told is told in the thread of its event loop, as its prefork pool does, so no state here needs a lock.
"""

import gc
import logging
import os
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from signal import SIGKILL, SIGTERM
from typing import Any

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback  # type: ignore[attr-defined]
from celery.concurrency.base import BasePool
from celery.concurrency.prefork import _run_ready_callbacks  # type: ignore[attr-defined]
from celery.exceptions import ImproperlyConfigured, Reject, Retry, Terminated, WorkerLostError
from kombu.asynchronous import get_event_loop

from cellwork_worker import body, delivery, metering
from cellwork_worker.deadlines import Deadlines
from cellwork_worker.job import FENCED, HANDOVER, MOVED, Callbacks, Ended, Job
from cellwork_worker.launch import sandbox_name
from cellwork_worker.limits import limit
from cellwork_worker.worker import Worker

logger = logging.getLogger("cellwork.worker")

#: Why a job was ended, where it was no signal.
_TIME_LIMIT = "time limit"
_SHUTDOWN = "shutdown"

#: While slots drain at a warm shutdown, seconds between two looks at Celery's timers (heartbeats).
_TICK = 0.5

#: Seconds that a cold shutdown waits for sandboxes to be gone.
_COLD_GRACE = 30.0


class _Slot:
    """A thread that runs one job at a time."""

    def __init__(self, name: str, serve: Callable[["_Slot"], None]) -> None:
        self.inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        # A daemon: a cold shutdown must not wait for a task for ever.
        self.thread = threading.Thread(target=serve, args=(self,), name=name, daemon=True)
        self.thread.start()


class SandboxPool(BasePool):
    """Selected by ``worker_pool = "cellwork_worker.pool:SandboxPool"``, which `cellwork.configure` sets."""

    uses_semaphore = True
    body_can_be_buffer = True

    limit: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._semaphore = self.options.get("semaphore")
        self._waiting: deque[Job] = deque()
        self._running: dict[Job, _Slot] = {}
        self._idle: list[_Slot] = []
        self._slots = 0
        self._done: queue.SimpleQueue[tuple[Job | None, Callable[[], None]]] = queue.SimpleQueue()

    def on_start(self) -> None:
        """Replace the bodies of all tasks, and look whether sandboxes can be made."""
        if get_event_loop() is None:
            raise ImproperlyConfigured(
                "cellwork needs Celery's event loop, which the Redis transport has: broker_url=redis://…"
            )
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._deadlines = Deadlines()
        self._worker = Worker(self.app, self.options["initargs"][1])
        self.sandboxes = self._worker.sandboxes
        self._declared = {task.name: (task.soft_time_limit, task.time_limit) for task in self.app.tasks.values()}
        for task in list(self.app.tasks.values()):
            body.replace(task, self._worker.supervisor)
        self._worker.announce()
        # What is here now stays for good. Without it a full collection costs little and comes before much has piled up:
        # of a task that fails, Celery's copy of the traceback is megabytes.
        gc.collect()
        gc.freeze()

    def register_with_event_loop(self, hub: Any) -> None:
        """Called at every (re)connection: the event loop forgets its readers when a connection breaks."""
        hub.add_reader(self._wake, self._drain)

    def on_apply(  # type: ignore[override]
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
        *,
        accept_callback: Callable[..., None],
        callback: Callable[..., None],
        error_callback: Callable[..., None],
        timeout_callback: Callable[..., None],
        correlation_id: str,
        **_: Any,
    ) -> Job:
        """Take a task; called by Celery's worker, in the thread of its event loop."""
        request = args[2]
        soft_timeout, timeout = self._limits(args[0], request)
        leases = self._worker.leases
        job = Job(
            id=correlation_id,
            sandbox=sandbox_name(correlation_id, int(request.get("retries") or 0)),
            target=target,
            args=args,
            callbacks=Callbacks(accept_callback, callback, error_callback, timeout_callback),
            soft_limit=soft_timeout or self.options.get("soft_timeout"),
            hard_limit=timeout or self.options.get("timeout"),
            kill_grace=self._worker.settings.kill_grace,
            on_running=self._watch,
            # Celery passes a bound method of its request.
            request=accept_callback.__self__,  # type: ignore[attr-defined]
            confirm=leases.confirm,
            on_restart=leases.started,
            note=leases.note,
        )
        # What its events tell is the job's (request.py).
        job.request.cellwork_job = weakref.ref(job)
        for first in self._running:
            if first.sandbox == job.sandbox:
                # A broken connection delivers again what still runs here.
                self._post(None, partial(self._joined, job, first))
                return job
        self._waiting.append(job)
        self._dispatch()
        return job

    def _limits(self, name: str, request: Mapping[str, Any]) -> tuple[float | None, float | None]:
        """Soft and hard, seconds. Celery's own reading of them is from when the worker began."""
        hard, soft = request.get("timelimit") or (None, None)
        task = self.app.tasks[name]
        declared_soft, declared_hard = self._declared.get(name, (None, None))
        return limit(soft, declared_soft, task.soft_time_limit), limit(hard, declared_hard, task.time_limit)

    def terminate_job(self, pid: str, signal: int | None = None) -> None:
        """End the task in the sandbox named `pid`; how ``revoke(terminate=True)`` arrives here."""
        for job in list(self._running):
            if job.sandbox == pid:
                job.terminate(signal or SIGTERM)

    def grow(self, n: int = 1) -> None:
        """Add `n` slots."""
        self.limit += n
        if self._semaphore is not None:
            self._semaphore.grow(n)
        self._dispatch()

    def shrink(self, n: int = 1) -> None:
        """Take `n` slots away, down to none; those that run a task go when it has ended."""
        n = min(n, self.limit)
        self.limit -= n
        if self._semaphore is not None:
            self._semaphore.shrink(n)
        self._retire()

    def flush(self) -> None:
        """Forget what has not started: the broker connection broke, so all of it is delivered again."""
        self._waiting.clear()

    def on_stop(self) -> None:
        """Warm shutdown: wait for what runs, telling Celery of every end as ever; hand over what takes too long."""
        hub = get_event_loop()
        drain = self._worker.settings.drain_seconds
        deadline = float("inf") if drain is None else time.monotonic() + drain
        while self._running or self._waiting:
            try:
                job, tell = self._done.get(timeout=min(_TICK, max(0.0, deadline - time.monotonic())))
                self._told(job, tell)
            except queue.Empty:
                pass
            if time.monotonic() >= deadline:
                self._hand_over()
                deadline = float("inf")
            if hub is not None:
                hub.fire_timers()
                _run_ready_callbacks(hub)
        self._leave()

    def _hand_over(self) -> None:
        """Give what still runs, and what waits, to other workers: nothing is acknowledged, all is delivered again."""
        leave = self._worker.settings.drain == "leave"
        logger.warning("%d tasks still run at the end of drain_seconds: handed over", len(self._running))
        self._waiting.clear()
        for job in self._running:
            if leave:
                job.leave(HANDOVER)
            else:
                job.end(HANDOVER, SIGKILL)

    def on_terminate(self) -> None:
        """Cold shutdown: end what runs and tell nobody, so that nothing is acknowledged and all is delivered again."""
        self._waiting.clear()
        for job in self._running:
            job.end(_SHUTDOWN, SIGKILL)
        deadline = time.monotonic() + _COLD_GRACE
        while self._running and (left := deadline - time.monotonic()) > 0:
            try:
                over, _ = self._done.get(timeout=left)
            except queue.Empty:
                break
            if over is not None:
                self._running.pop(over, None)
                self._worker.leases.give_back(over)
        for job in self._running:
            logger.error("%s was still there %.0f s after it was killed", job.sandbox, _COLD_GRACE)
        self._leave()

    @property
    def num_processes(self) -> int:
        """Slots; the name is Celery's."""
        return self.limit

    def _get_info(self) -> dict[str, Any]:
        info: dict[str, Any] = super()._get_info()  # type: ignore[misc]
        info["max-concurrency"] = self.limit
        info["busy"] = len(self._running)
        info["sandboxes"] = [job.sandbox for job in self._running]
        info["executor"] = self._worker.settings.executor
        for executor in self._worker.executors.made():
            info |= executor.facts()
        return info | self._worker.room.facts()

    def _dispatch(self) -> None:
        """Give waiting jobs to free slots."""
        while self._waiting and len(self._running) < self.limit:
            job = self._waiting.popleft()
            slot = self._idle.pop() if self._idle else self._new_slot()
            # Before it is accepted: that may call terminate_job at once, for a task that was revoked meanwhile.
            self._running[job] = slot
            job.settings = self._worker.settings
            job.taken = time.time()
            job.queue_seconds = metering.queue_seconds(job.args[2], job.taken)
            job.callbacks.accept(job.sandbox, time.monotonic())
            slot.inbox.put(job)

    def _new_slot(self) -> _Slot:
        self._slots += 1
        return _Slot(f"slot-{self._slots}", self._serve)

    def _retire(self) -> None:
        while self._idle and len(self._idle) + len(self._running) > self.limit:
            self._idle.pop().inbox.put(None)

    def _serve(self, slot: _Slot) -> None:
        """A slot's thread."""
        while (job := slot.inbox.get()) is not None:
            self._post(job, self._trace(job))

    def _trace(self, job: Job) -> Callable[[], None]:
        """Run Celery's trace of the job's task; return what tells Celery how it went."""
        body.enter(job)
        again = False
        try:
            if (elsewhere := self._worker.claim(job)) is not None:
                again = True
                return elsewhere
            outcome = self._worker.storing(job)
            again = _asks_retry(outcome)
            return partial(job.callbacks.success, outcome)
        except Ended:
            return self._ended(job)
        except Reject as reject:
            if reject.requeue:  # type: ignore[attr-defined]
                self._worker.leases.give_back(job)
            return partial(job.callbacks.error, ExceptionInfo())
        except MemoryError as error:
            # Celery's worker ends itself over a MemoryError, and with it every other task.
            return partial(job.callbacks.error, _info(WorkerLostError(f"out of memory in the worker: {error}")))
        except BaseException:  # noqa: BLE001 - Reject and whatever else the trace lets through: Celery sorts it
            return partial(job.callbacks.error, ExceptionInfo())
        finally:
            body.enter(None)
            self._worker.logs.end(job.id, final=not again and job.ended not in (FENCED, HANDOVER, MOVED, _SHUTDOWN))
            if not job.left:
                job.discard()

    def _ended(self, job: Job) -> Callable[[], None]:
        if job.ended == FENCED:
            return partial(delivery.forget, job.request)
        if job.ended == HANDOVER:
            # Not forgotten: when the connection closes, kombu delivers it again.
            self._worker.leases.give_back(job)
            return lambda: None
        if job.ended == MOVED:
            return partial(delivery.acknowledge, job.request)
        if job.ended == _TIME_LIMIT:
            return partial(job.callbacks.timeout, False, job.hard_limit or 0)
        return partial(job.callbacks.error, _info(Terminated(job.ended)))

    def _joined(self, job: Job, first: Job) -> None:
        """A second delivery of what runs here: the first one goes on, and answers for both."""
        logger.info("%s was delivered again while it runs here; it runs on", first.sandbox)
        delivery.join(job.request, first.request)
        if self._semaphore is not None:
            self._semaphore.release()

    def _watch(self, job: Job) -> None:
        """Its sandbox runs: from here its time limits count. Called in its slot's thread."""
        timers = []
        if job.soft_limit:
            timers.append(self._deadlines.after(job.soft_limit, partial(self._soft, job)))
        if job.hard_limit:
            timers.append(self._deadlines.after(job.hard_limit, partial(job.end, _TIME_LIMIT, SIGKILL)))

        def unwatch() -> None:
            for cancel in timers:
                cancel()

        job.unwatch = unwatch

    def _soft(self, job: Job) -> None:
        job.soft()
        self._post(None, partial(job.callbacks.timeout, True, job.soft_limit or 0))

    def _post(self, job: Job | None, tell: Callable[[], None]) -> None:
        """Have `tell` called in the event loop's thread; with `job`, which is then over."""
        self._done.put((job, tell))
        os.eventfd_write(self._wake, 1)

    def _drain(self) -> None:
        """The event loop's reader."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        while True:
            try:
                job, tell = self._done.get_nowait()
            except queue.Empty:
                return
            self._told(job, tell)

    def _told(self, job: Job | None, tell: Callable[[], None]) -> None:
        slot = None if job is None else self._running.pop(job, None)
        try:
            tell()
        except Exception:
            logger.exception("telling Celery how %s went failed", job.sandbox if job else "a soft time limit")
        if slot is None or job is None:
            return
        if job.ended not in (FENCED, HANDOVER, MOVED):
            self._settle(job)
        self._idle.append(slot)
        self._retire()
        if self._semaphore is not None:
            self._semaphore.release()
        self._dispatch()

    def _settle(self, job: Job) -> None:
        if job.stored or job.request.acknowledged:
            self._worker.leases.finish(job)
        else:
            # Ended by a shutdown: nothing is stored, and its message is delivered again.
            self._worker.leases.give_back(job)

    def _leave(self) -> None:
        for slot in self._idle:
            slot.inbox.put(None)
        self._deadlines.close()
        self._worker.close()


def _asks_retry(outcome: Any) -> bool:
    """True where Celery's trace, with ``(failed, value, runtime)``, says that the task will run again."""
    failed, value, _ = outcome
    error = getattr(value, "exception", None)
    return bool(failed) and isinstance(error.exc if isinstance(error, ExceptionWithTraceback) else error, Retry)


def _info(error: BaseException) -> ExceptionInfo:
    try:
        raise error
    except BaseException:  # noqa: BLE001 - only way to an ExceptionInfo
        return ExceptionInfo()
