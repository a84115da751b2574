"""What a sandbox's run used: put together while it runs, written to Redis behind it."""

import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from signal import Signals
from typing import Any

from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded, TimeLimitExceeded
from redis import RedisError

from cellwork.errors import CellworkError
from cellwork.usage import SUCCESS, TRAFFIC, Run
from cellwork.usagestore import UsageStore
from cellwork_worker.executors.base import Exit
from cellwork_worker.job import FENCED, HANDOVER, MOVED, Job
from cellwork_worker.launch import Launch

logger = logging.getLogger("cellwork.worker")

#: Runs that wait for the writer; while Redis is away, the oldest are dropped. And how many go in one request.
_WAITING, _BATCH = 10_000, 200

#: Seconds that the writer lets runs gather; and until it tries again where Redis does not answer: first, and at most.
_LINGER, _FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 0.5, 10.0

#: Seconds that a worker that shuts down waits for the last ones.
_CLOSE_TIMEOUT = 5.0

#: Whatever a runner claims to have used is at most this: what comes out of a sandbox is hostile.
_MOST = float(2**53)

#: Where the runs of a job that ended so are another worker's to tell.
ELSEWHERE = frozenset({FENCED, HANDOVER, MOVED, "shutdown"})


class Meter:
    """One run, while it goes on."""

    def __init__(self) -> None:
        self._began, self._asked = time.time(), time.monotonic()
        self._running: float | None = None
        self._over: float | None = None
        self.exit = Exit()
        #: What the runner says it used: hostile.
        self.claimed: object = None

    def running(self) -> None:
        """Its sandbox runs."""
        self._running = time.monotonic()

    def over(self) -> None:
        """Nothing more comes from its sandbox."""
        self._over = time.monotonic()

    def run(self, job: Job, launch: Launch, executor: str, worker: str, outcome: str) -> Run:
        """What is known now."""
        spec, exit_ = launch.spec, self.exit
        running, over = self._running, self._over or time.monotonic()
        claimed = self.claimed if isinstance(self.claimed, Mapping) else exit_.used
        peak, cpu_seconds = _amount(claimed.get("peak_memory_bytes")), _amount(claimed.get("cpu_seconds"))
        if executor != "process":
            # It cannot have used more than its sandbox may, whatever it claims: sizes are learned from this.
            peak = _bounded(peak, spec.memory_swap or spec.memory)
            cpu_seconds = _bounded(cpu_seconds, None if spec.cpus is None else spec.cpus * (over - self._asked))
        killed_for_memory = exit_.oom or outcome == "out-of-memory"
        if killed_for_memory and spec.memory is not None:
            peak = float(spec.memory)
        executor_name, reason = route(job.args[2])
        return Run(
            task=launch.task,
            task_id=launch.task_id,
            retries=int(job.args[2].get("retries") or 0),
            sandbox=launch.id,
            executor=executor,
            image=None if executor == "process" else spec.image,
            image_digest=exit_.image_id or None,
            image_bytes=exit_.image_bytes,
            worker=worker,
            host=exit_.node or socket.gethostname(),
            queue=str((job.request.delivery_info or {}).get("routing_key") or ""),
            route=executor_name,
            reason=reason,
            outcome=outcome,
            exit_status=exit_.code,
            start=None if running is None else "adopted" if exit_.adopted else "warm" if exit_.warm else "cold",
            redelivered=not job.first,
            cpus=spec.cpus,
            memory_bytes=spec.memory,
            gpus=spec.gpus,
            pull_seconds=exit_.pull_seconds,
            queue_seconds=job.queue_seconds,
            start_seconds=None if running is None else running - self._asked,
            run_seconds=None if running is None else over - running,
            peak_memory_bytes=None if peak is None else int(peak),
            cpu_seconds=cpu_seconds,
            **{name: int(value) for name in TRAFFIC if (value := _amount(claimed.get(name))) is not None},
            began=self._began,
            ended=self._began + over - self._asked,
        )


class Metering:
    """Of one worker. Slots only append; one thread writes, so a task never waits for it."""

    def __init__(self, store: UsageStore, worker: str) -> None:
        """`worker`: Celery's node name. Nothing is written before `start`."""
        self._store = store
        self._worker = worker
        self._waiting: deque[Run] = deque(maxlen=_WAITING)
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write, name="usage", daemon=True)

    def start(self) -> None:
        """From here on it writes."""
        self._thread.start()

    @contextmanager
    def measured(self, job: Job, launch: Launch, executor: str) -> Iterator[Meter]:
        """Measure what is done inside; `job.runs` has it afterwards, and Redis soon."""
        meter = Meter()
        outcome = SUCCESS
        try:
            yield meter
        except Exception as error:
            outcome = kind(error)
            raise
        except BaseException:
            outcome = ended(job)
            raise
        finally:
            if job.ended not in ELSEWHERE:
                run = meter.run(job, launch, executor, self._worker, outcome)
                job.runs.append(run)
                self._waiting.append(run)
                self._wake.set()

    def close(self) -> None:
        """Write what is left, within a few seconds."""
        self._closing.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(_CLOSE_TIMEOUT)

    def _write(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            self._wake.wait()
            self._wake.clear()
            self._closing.wait(_LINGER)
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
                try:
                    self._store.add(batch)
                    pause = _FIRST_PAUSE
                except RedisError as error:
                    # Those that were added before the error are counted twice: figures, not money.
                    logger.warning("the usage of %d runs is not written yet, trying again: %s", len(batch), error)
                    self._waiting.extendleft(reversed(batch[: _WAITING - len(self._waiting)]))
                    if self._closing.wait(pause):
                        return
                    pause = min(pause * 2, _LONGEST_PAUSE)
            if self._closing.is_set():
                return


def kind(error: BaseException) -> str:
    """How an exception is counted (docs/monitoring.md, "Outcomes")."""
    if isinstance(error, CellworkError):
        return error.kind
    if isinstance(error, Retry):
        return "retry"
    if isinstance(error, SoftTimeLimitExceeded):
        return "soft-time-limit"
    if isinstance(error, TimeLimitExceeded):
        return "time-limit"
    return "ignored" if isinstance(error, Ignore | Reject) else "task-error"


def ended(job: Job) -> str:
    """The same, of a job that was ended from outside."""
    return "revoked" if isinstance(job.ended, int | Signals) else "time-limit"


def route(request: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Executor and reason of the producer's router, as the message says."""
    header = request.get("cellwork")
    said = header.get("route") if isinstance(header, Mapping) else None
    if not isinstance(said, Mapping):
        return None, None
    executor, reason = said.get("executor"), said.get("reason")
    return (executor if isinstance(executor, str) else None, reason[:500] if isinstance(reason, str) else None)


def queue_seconds(request: Mapping[str, Any], now: float) -> float | None:
    """Seconds since it was sent, or was due; the producer's clock and this one's may differ. None: it does not say.

    Args:
        request: what Celery's message says of it.
        now: seconds since the epoch.
    """
    header = request.get("cellwork")
    sent = _amount(header.get("sent")) if isinstance(header, Mapping) else None
    try:
        due = datetime.fromisoformat(request["eta"]).timestamp() if request.get("eta") else None
    except (TypeError, ValueError):
        due = None
    return None if sent is None else max(0.0, now - max(sent, due or 0.0))


def _amount(value: object) -> float | None:
    """A number that can be one of an amount; None: it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        return None
    return float(min(value, _MOST))


def _bounded(amount: float | None, most: float | None) -> float | None:
    return amount if amount is None or most is None else min(amount, most)
