"""Ends sandboxes that nobody will ever ask for again: their worker is dead, and their task has its outcome, or runs
in another place.

A dead worker's sandbox whose task still waits for its next delivery is left alone for `PATIENCE`: that delivery adopts
it, and so saves the work. Only sandboxes of this installation are looked at, by label.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

import msgspec
from celery import Celery, states
from redis import RedisError

from cellwork import settings
from cellwork.broker import Broker
from cellwork.errors import CellworkError
from cellwork_worker import heartbeat
from cellwork_worker.executors.base import Executor, Sandbox
from cellwork_worker.executors.registry import Executors
from cellwork_worker.fencing import Holding, Tokens
from cellwork_worker.launch import attempt_of
from cellwork_worker.namespaces import Namespaces

logger = logging.getLogger("cellwork.worker")

#: Seconds that a sandbox without a worker waits for its task's next delivery. A queue may be long.
PATIENCE = 3600.0

#: Seconds for which a sandbox is too young to be judged: its worker may not have said yet that it lives.
_GRACE = 10.0


class Orphan(msgspec.Struct, frozen=True):
    """A sandbox to end, and why."""

    sandbox: Sandbox
    reason: str


def orphans(
    found: Iterable[Sandbox],
    place: str,
    broker: str,
    live: Collection[str],
    held: Callable[[Sandbox], Holding],
    has_outcome: Callable[[str], bool],
    now: float,
) -> list[Orphan]:
    """Decide. Pure, apart from what it asks.

    Args:
        found: all sandboxes of the installation in one place.
        place: the name of that place.
        broker: the id of the Redis that was asked. Of workers that use another nothing is known.
        live: names and processes of the workers that live.
        held: how the token of a sandbox's attempt stands.
        has_outcome: whether the task of that id has one.
        now: seconds since the epoch.
    """
    ours = (sandbox for sandbox in found if sandbox.broker in ("", broker))
    judged = ((sandbox, _verdict(sandbox, place, live, held, has_outcome, now)) for sandbox in ours)
    return [Orphan(sandbox, reason) for sandbox, reason in judged if reason is not None]


def _verdict(
    sandbox: Sandbox,
    place: str,
    live: Collection[str],
    held: Callable[[Sandbox], Holding],
    has_outcome: Callable[[str], bool],
    now: float,
) -> str | None:
    if (sandbox.boot or sandbox.worker) in live or now - sandbox.created < _GRACE:
        return None
    if not sandbox.task_id:
        return None if sandbox.needed else f"worker {sandbox.worker} is dead, and nothing needs this"
    holding = held(sandbox)
    if holding.live:
        elsewhere = _known(place) and _known(holding.place) and holding.place != place
        return f"worker {sandbox.worker} is dead, and task {sandbox.task_id} runs elsewhere now" if elsewhere else None
    if holding.done or has_outcome(sandbox.task_id):
        return f"worker {sandbox.worker} is dead, and task {sandbox.task_id} has its outcome"
    if now - max(holding.until, sandbox.created) > PATIENCE:
        return f"worker {sandbox.worker} is dead, and task {sandbox.task_id} was not delivered again for {PATIENCE:g} s"
    return None


def _known(place: str) -> bool:
    """Whether it is sure to have no second name: an engine that did not answer may be any, and addresses differ."""
    return bool(place) and not place.endswith("unknown") and "://" not in place


class Reaper:
    """Of one place: looks at all sandboxes that its executor can see."""

    def __init__(self, app: Any, broker: Broker, tokens: Tokens, boot: str = "") -> None:
        """`boot`: of this process, if it is a worker's; that lives, whatever its heartbeat says."""
        self._boot = boot
        self._app = app
        self._broker = broker
        self._tokens = tokens

    def find(self, executor: Executor) -> list[Orphan]:
        """What is to be ended.

        Raises:
            redis.RedisError, cellwork.errors.EngineUnavailable: nothing can be said then.
        """
        found = self.sandboxes(executor)
        if not found:
            return []
        beats = list(heartbeat.live(self._broker))
        live = {self._boot, *(beat.boot for beat in beats), *(beat.worker for beat in beats)} - {""}
        return orphans(found, executor.place(), self._broker.id, live, self.held, self._has_outcome, time.time())

    def sandboxes(self, executor: Executor) -> list[Sandbox]:
        """All that the executor sees, with the tasks that they were given.

        Raises:
            redis.RedisError, cellwork.errors.EngineUnavailable
        """
        return [self._named(sandbox) for sandbox in executor.sandboxes()]

    def held(self, sandbox: Sandbox) -> Holding:
        """How the token of its attempt stands."""
        return self._tokens.look(sandbox.attempt or attempt_of(sandbox.id))

    def reap(self, executor: Executor) -> list[Orphan]:
        """End it.

        Raises:
            redis.RedisError, cellwork.errors.EngineUnavailable
        """
        ended = self.find(executor)
        for orphan in ended:
            logger.warning("sandbox %s is ended: %s", orphan.sandbox.id, orphan.reason)
            executor.discard(orphan.sandbox.id)
        return ended

    def _named(self, sandbox: Sandbox) -> Sandbox:
        """One that was started ahead of need says nothing of its task; the one that gave it to it does."""
        noted = self._tokens.noted(sandbox.alias) if sandbox.alias else None
        return sandbox if noted is None else msgspec.structs.replace(sandbox, attempt=noted[0], task_id=noted[1])

    def _has_outcome(self, task_id: str) -> bool:
        return self._app.backend.get_task_meta(task_id, cache=False)["status"] in states.READY_STATES


class Reaping:
    """Reaps when a worker starts, and then at every visibility timeout, in a thread of its own."""

    def __init__(self, reaper: Reaper, executors: Callable[[], Iterable[Executor]], period: float) -> None:
        """`period`: seconds."""
        self._reaper = reaper
        self._executors = executors
        self._period = period
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)

    def start(self) -> None:
        """From here on it reaps."""
        self._thread.start()

    def close(self) -> None:
        """No more; what is being ended is waited for by the executor's own `sweep`."""
        self._closing.set()

    def _run(self) -> None:
        while not self._closing.is_set():
            for executor in self._executors():
                try:
                    self._reaper.reap(executor)
                except (RedisError, CellworkError) as error:
                    logger.warning("cannot look for sandboxes that nobody owns: %s", error)
            self._closing.wait(self._period)


def reap(app: Celery, *, executor: str | None = None, dry_run: bool) -> list[tuple[str, str]]:
    """What ``cellwork reap`` does: sandbox and reason of each. `executor`: whose; None: that of the settings.

    Raises:
        redis.RedisError, cellwork.errors.CellworkError
    """
    current = settings.load(app)
    broker = Broker(app)
    executors = Executors(current, worker="reap", namespaces=Namespaces(broker))
    try:
        reaper, place = Reaper(app, broker, Tokens(broker, "reap")), executors(executor or current.executor)
        found = reaper.find(place) if dry_run else reaper.reap(place)
        place.sweep(frozenset())  # its own, of which there are none; waits for the removals
    finally:
        broker.close()
    return [(orphan.sandbox.id, orphan.reason) for orphan in found]
