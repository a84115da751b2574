"""The worker's claims on what it runs, renewed in a thread of its own.

Two things are renewed every quarter of the visibility timeout: the messages that this worker has taken and not
acknowledged (kombu delivers them to others when the timeout has passed), and the tokens of the tasks that run here
(fencing.py). Whatever the event loop is doing, and however long a task takes, this goes on.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from signal import SIGKILL
from typing import Any, TypeVar

from redis import RedisError

from cellwork.broker import Broker
from cellwork_worker.fencing import DONE, Claim, Tokens
from cellwork_worker.job import FENCED, Ended, Job

T = TypeVar("T")

logger = logging.getLogger("cellwork.worker")

#: Renewals in one visibility timeout: three may fail.
_RENEWALS = 4

#: Seconds before Redis is asked again: first, and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0


class Leases:
    """Of one worker. Claims are made in the slots' threads."""

    def __init__(
        self, broker: Broker, tokens: Tokens, boot: str, place: Callable[[Job], str], beat: Callable[[], None]
    ) -> None:
        """Nothing starts before `start`.

        Args:
            broker: whose unacknowledged messages are renewed.
            tokens: of the running tasks.
            boot: names this process in tokens.
            place: where a job's sandbox is; another worker of the same place adopts it.
            beat: called at every renewal, in its thread; may raise `redis.RedisError`.
        """
        self._broker = broker
        self._tokens = tokens
        self._boot = boot
        self._place = place
        self._beat = beat
        self._period = broker.visibility_timeout / _RENEWALS
        self._lock = threading.Lock()
        self._held: dict[str, Job] = {}
        self._finished: deque[Job] = deque()
        self._claims = 0
        self._renewed = -float("inf")
        self._consumer: Any = None
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def start(self) -> None:
        """From here on it renews."""
        self._thread.start()

    def watch(self, sender: Any, **_: Any) -> None:
        """Renew all that Celery's consumer has taken: also what waits for its time or for a slot."""
        self._consumer = sender

    def claim(self, job: Job) -> Claim:
        """Ask for the token of the job's attempt; blocks. While Redis does not answer, asks again.

        After a whole visibility timeout without an answer, the claim is as good as ``held``: by then the message is
        on its way to another delivery.
        """
        with self._lock:
            self._claims += 1
            owner = f"{self._boot}.{self._claims}@{self._place(job)}"

        def ask() -> Claim:
            job.claimed = _now()
            return self._tokens.claim(job.sandbox, owner)

        claim = self.patiently(ask, f"{job.sandbox}: cannot claim it") or Claim("held", 0, 0, ())
        if claim.answer == "mine":
            job.owner, job.start, job.alias = owner, claim.start, claim.alias
            job.first = len(claim.history) == 1
            with self._lock:
                self._held[job.sandbox] = job
        return claim

    def confirm(self, job: Job) -> None:
        """Make sure that the job's token is still this worker's. Without a round trip, where it cannot be otherwise.

        Raises:
            Ended: another worker has taken it, or nobody can say.
        """
        if job.owner is None or job.ended is not None:
            return
        if _now() - max(self._renewed, job.claimed) < self._tokens.lease:
            return
        owner = job.owner
        taken = self.patiently(lambda: self._tokens.renew({job.sandbox: owner}), f"{job.sandbox}: cannot be confirmed")
        if taken != {}:
            self._fence(job, (taken or {}).get(job.sandbox, ""))
            raise Ended

    def note(self, job: Job, sandbox: str) -> bool:
        """Note that the job runs in a sandbox of that name. False: it is another's, or Redis does not answer."""
        try:
            if not self._tokens.note(job.sandbox, job.owner or "", job.id, sandbox):
                return False
        except RedisError as error:
            logger.warning("%s starts cold, because a warm sandbox cannot be noted: %s", job.sandbox, error)
            return False
        job.alias = sandbox
        return True

    def started(self, job: Job) -> None:
        """Note that the infrastructure made the job start another sandbox."""
        job.alias = ""
        owner = job.owner or ""
        self.patiently(
            lambda: self._tokens.started(job.sandbox, owner, job.start), f"{job.sandbox}: cannot note its start"
        )

    def finish(self, job: Job) -> None:
        """The job's outcome is stored. Does not block: told to Redis in the background."""
        self._drop(job)
        self._finished.append(job)
        self._wake.set()

    def finish_now(self, job: Job) -> None:
        """The same, told to Redis before this returns: for outcomes that are stored nowhere."""
        owner = job.owner
        if owner is not None:
            self.patiently(lambda: self._tokens.finish(job.sandbox, owner), f"{job.sandbox}: cannot note its end")
        self._drop(job)

    def give_back(self, job: Job) -> None:
        """The job has no outcome, and this worker does not go on with it: another may at once."""
        self._drop(job)
        if job.owner is not None:
            try:
                self._tokens.give_back(job.sandbox, job.owner)
            except RedisError as error:
                logger.warning("%s: its token is not given back, and runs out by itself: %s", job.sandbox, error)

    def patiently(self, ask: Callable[[], T], what: str) -> T | None:
        """Call `ask` until Redis answers, for at most one visibility timeout; None: it did not."""
        deadline, pause = _now() + self._broker.visibility_timeout, _FIRST_PAUSE
        while True:
            try:
                return ask()
            except RedisError as error:
                if _now() + pause > deadline:
                    logger.error("%s, given up: %s", what, error)
                    return None
                logger.warning("%s, asking again in %.1f s: %s", what, pause, error)
            threading.Event().wait(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def close(self) -> None:
        """Tell Redis what is left to tell, and end."""
        self._closing = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(self._period)

    def _drop(self, job: Job) -> None:
        with self._lock:
            if self._held.get(job.sandbox) is job:
                del self._held[job.sandbox]

    def _run(self) -> None:
        due, pause = _now(), _FIRST_PAUSE
        while not self._closing or self._finished:
            try:
                self._flush()
                if _now() >= due:
                    self._renew()
                    due = _now() + self._period
                pause = _FIRST_PAUSE
            except RedisError as error:
                logger.warning("the leases of this worker cannot be renewed, asking again: %s", error)
                pause = min(pause * 2, _LONGEST_PAUSE, self._period)
                due = min(due, _now() + pause)
                if self._closing:
                    return
            if not self._closing:
                self._wake.wait(max(0.0, due - _now()) if pause == _FIRST_PAUSE else pause)
                self._wake.clear()

    def _flush(self) -> None:
        while self._finished:
            job = self._finished[0]
            if job.owner is not None:
                self._tokens.finish(job.sandbox, job.owner, job.alias)
            self._finished.popleft()

    def _renew(self) -> None:
        began = _now()
        with self._lock:
            held = dict(self._held)
        taken = self._tokens.renew({attempt: job.owner for attempt, job in held.items() if job.owner is not None})
        self._renewed = began
        for attempt, owner in taken.items():
            self._fence(held[attempt], owner)
        tags = {job.tag for attempt, job in held.items() if attempt not in taken} | self._reserved()
        if tags:
            # XX: what was acknowledged meanwhile must not come back.
            self._broker.client.zadd(self._broker.unacked_index, dict.fromkeys(tags, time.time()), xx=True)
        self._beat()

    def _reserved(self) -> set[str]:
        """Delivery tags of the messages that Celery's consumer has taken and not acknowledged."""
        consumer = getattr(self._consumer, "task_consumer", None)
        qos = getattr(getattr(consumer, "channel", None), "qos", None)
        # A copy in one step: the event loop's thread changes it.
        return set(list(qos._delivered)) - set(qos._dirty) if qos is not None else set()  # noqa: C414

    def _fence(self, job: Job, owner: str) -> None:
        """Another worker runs the job's task: end it here, without a result and without an acknowledgement."""
        self._drop(job)
        if owner == DONE:
            logger.warning("%s was run to its end by another worker while this one did not answer", job.sandbox)
            job.end(FENCED, SIGKILL)
            return
        same_place = owner.rpartition("@")[2] == self._place(job)
        logger.warning(
            "%s was taken over by another worker while this one did not answer (%s); %s",
            job.sandbox,
            owner.partition(".")[0] or "nobody can say by whom: Redis does not answer",
            "its sandbox is left to that one" if same_place or not owner else "its sandbox here is ended",
        )
        if same_place or not owner:
            job.leave(FENCED)
        else:
            job.end(FENCED, SIGKILL)


def _now() -> float:
    # Unlike the monotonic clock, it goes on while the machine is suspended.
    return time.clock_gettime(time.CLOCK_BOOTTIME)
