"""One task that the pool has taken, and what may end it from outside: a revoke, a time limit, a shutdown."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from signal import SIGKILL
from typing import Any

from cellwork.errors import CellworkError
from cellwork.settings import Settings
from cellwork.usage import Run

from .budget import Budget

logger = logging.getLogger("cellwork.worker")

#: Why a job was ended: another worker has taken its task over, this one hands it over, or it has become a pod.
FENCED = "taken over"
HANDOVER = "handed over"
MOVED = "sent on"

#: A second apart. By then an engine that does not answer has made the executor give the sandbox up.
_KILL_TRIES = 60


class Ended(BaseException):
    """Raised through Celery's trace where a task was ended from outside.

    Not an `Exception`: Celery would store that as a FAILURE over the REVOKED that it has already stored.
    """


class Final(BaseException):
    """Carries an error past a task's ``autoretry_for``, to be raised as it is outside of that.

    Infrastructure failures, refusals and time limits are not retried by Celery's rules.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


@dataclass(frozen=True)
class Callbacks:
    """What Celery wants to be told, in the thread of its event loop."""

    accept: Callable[[str, float], None]
    success: Callable[[Any], None]
    error: Callable[[Any], None]
    timeout: Callable[[bool, float], None]


@dataclass(eq=False)
class Job:
    """A task in the pool. Celery keeps a weak reference, and calls `terminate`."""

    id: str
    #: The name of its sandbox; what Celery shows as the process id.
    sandbox: str
    target: Callable[..., Any]
    args: tuple[Any, ...]
    callbacks: Callbacks
    #: Seconds from the start of its sandbox, or None for no limit.
    soft_limit: float | None = None
    hard_limit: float | None = None
    #: Seconds between the signal that asks and the one that kills.
    kill_grace: float = 10.0

    #: Celery's request: the delivery that this job answers.
    request: Any = None
    #: Its token's owner, as this delivery wrote it; None: the token is not this worker's.
    owner: str | None = None
    #: By the clock of the leases: when its token was asked for.
    claimed: float = 0.0
    #: How many sandboxes of this attempt were lost to the infrastructure.
    start: int = 0
    #: No worker was given this attempt before.
    first: bool = False
    #: The name of its sandbox, where that was started ahead of need; empty: `sandbox`.
    alias: str = ""
    #: Called with the job and that name, before that sandbox is given the task. False: it is not to be used.
    note: Callable[["Job", str], bool] = lambda job, name: True
    #: What its body gave or raised: a trace that is run again, because it could not store that, does not run the body.
    given: Future[Any] = field(default_factory=Future)
    #: Its trace is through: the outcome is stored.
    stored: bool = False
    #: Of its worker, once a slot has taken it.
    settings: Settings | None = None
    #: When that was: seconds since the epoch.
    taken: float = 0.0
    #: Seconds that its message waited before a slot took it; None: it does not say.
    queue_seconds: float | None = None
    #: W3C's context of the trace that it is part of, for its sandbox. None: of none.
    traceparent: str | None = None
    #: What its sandboxes used, one after the other.
    runs: list[Run] = field(default_factory=list)
    #: Bytes of memory that its sandboxes had, one after the other; those before it became a pod, too.
    sizes: list[int] = field(default_factory=list)
    #: How its body failed, as `metering.kind` says it. None: it did not, or has not ended.
    failure: str | None = None
    #: What it may spend on failures of the infrastructure; set before its first sandbox.
    budget: Budget = field(init=False)
    #: It must not run; this is its outcome.
    refusal: CellworkError | None = None
    #: Its sandbox was left running, for another worker to adopt.
    left: bool = False
    #: Called before its outcome is stored; raises `Ended` where that is another worker's to store.
    confirm: Callable[["Job"], None] = lambda job: None
    #: Called when another sandbox is about to be started.
    on_restart: Callable[["Job"], None] = lambda job: None
    #: Removes its sandbox, once its outcome is stored.
    discard: Callable[[], None] = lambda: None

    #: Called once its sandbox runs.
    on_running: Callable[["Job"], None] = lambda job: None
    #: Why it was ended from outside: a signal's number, or "time limit". None: it was not.
    ended: int | str | None = None
    #: Its soft limit has passed.
    soft_exceeded: bool = False
    #: Sent at the soft limit. None: the runner keeps that limit by itself.
    soft_signal: int | None = None
    #: The trace has called the body: a further call comes from inside some body.
    entered: bool = False
    #: Called once its sandbox is over: takes its timers back.
    unwatch: Callable[[], None] = lambda: None
    _stop: Callable[[int], None] | None = None
    _abandon: Callable[[], None] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _over: threading.Event = field(default_factory=threading.Event)
    _asked: threading.Event = field(default_factory=threading.Event)

    @property
    def tag(self) -> str:
        """Its message's, in kombu's index of unacknowledged messages."""
        return str(self.request.message.delivery_tag)

    def terminate(self, signal: int) -> None:
        """End it with `signal`, and with SIGKILL if it has not gone within `kill_grace` seconds. Does not block."""
        self.end(signal, signal)

    def end(self, reason: int | str, signal: int) -> None:
        """End it for `reason`, of which the first one counts. Does not block."""
        with self._lock:
            if self.ended is None:
                self.ended = reason
            stop = self._stop
        self._asked.set()
        if stop is not None:
            threading.Thread(target=self._kill, args=(stop, signal), name=f"{self.sandbox}-end", daemon=True).start()

    def leave(self, reason: str) -> None:
        """Stop following it and leave its sandbox running, for another worker to adopt. Does not block."""
        with self._lock:
            if self.ended is None:
                self.ended = reason
                self.left = True
            abandon = self._abandon if self.left else None
        self._asked.set()
        if abandon is not None:
            abandon()

    def report(self, store: Callable[[], None]) -> None:
        """Have its progress stored, unless it was ended: Celery stores REVOKED then, which must stay."""
        with self._lock:
            if self.ended is None:
                store()

    def soft(self) -> None:
        """Its soft limit has passed. Does not block."""
        self.soft_exceeded = True
        stop, signal = self._stop, self.soft_signal
        if stop is not None and signal is not None:
            threading.Thread(target=self._kill, args=(stop, signal), name=f"{self.sandbox}-soft", daemon=True).start()

    def starting(self, stop: Callable[[int], None], abandon: Callable[[], None]) -> None:
        """Its sandbox is about to start; `stop` sends that a signal, `abandon` leaves it to others.

        Raises:
            Ended: it was ended before.
        """
        with self._lock:
            self._stop = stop
            self._abandon = abandon
            self._over.clear()
            ended = self.ended
        if ended is not None:
            raise Ended

    def beginning(self) -> None:
        """Its body is about to begin.

        Raises:
            Ended: it was ended, or is another worker's now.
        """
        if self.ended is not None:
            raise Ended
        self.confirm(self)

    def running(self) -> None:
        """Its sandbox runs: the time limits count from here, so that a pull does not use them up."""
        self.on_running(self)

    def stopped(self) -> None:
        """Its sandbox has ended; another one may be started."""
        self.unwatch()
        with self._lock:
            self._stop = self._abandon = None
            self._over.set()

    def wait_ended(self, seconds: float) -> bool:
        """Wait until somebody wants it ended, at most so long; True if somebody does."""
        return self._asked.wait(seconds)

    def _kill(self, stop: Callable[[int], None], signal: int) -> None:
        if signal != SIGKILL:
            self._signal(stop, signal)
            if self._over.wait(self.kill_grace):
                return
        # Asked again until it is over: between its creation and its start, an engine has nothing to signal.
        for _ in range(_KILL_TRIES):
            self._signal(stop, SIGKILL)
            if self._over.wait(1.0):
                return
        logger.error("%s did not end, although it was killed %d times", self.sandbox, _KILL_TRIES)

    def _signal(self, stop: Callable[[int], None], signal: int) -> None:
        try:
            stop(signal)
        except CellworkError as error:
            logger.warning("%s: cannot send signal %d: %s", self.sandbox, signal, error)
