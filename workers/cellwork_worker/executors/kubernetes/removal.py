"""Deleting pods in the background, so that a task's outcome does not wait for it."""

import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from http import HTTPStatus

from cellwork.errors import EngineUnavailable
from cellwork_worker.executors import again

from . import refusals
from .api import Api
from .connection import Refused

logger = logging.getLogger("cellwork.worker")

#: Deletions at once; the API server answers in milliseconds, and its rate is bounded anyway.
_REMOVERS = 4

#: Seconds between the signal that asks and the kill, for what still runs although nobody needs it. Not 0: that would
#: take the pod from the API server's list while its containers may still run.
GRACE = 1


class Remover:
    """Of one executor."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._threads = ThreadPoolExecutor(_REMOVERS, thread_name_prefix="pods-delete")
        self._lock = threading.Lock()
        self._pending: set[Future[None]] = set()
        self._timers: dict[str, threading.Timer] = {}

    def later(self, namespace: str, name: str, uid: str = "", after: float = 0) -> None:
        """Delete it in the background; its Secret goes with it.

        Args:
            namespace, name: where it is.
            uid: of that one, so that it is safe to try again; empty: whichever has the name, once.
            after: seconds.
        """
        self._schedule(_Removal(namespace, name, uid), after)

    def wait(self) -> None:
        """Wait for the deletions that are under way. Pods that were to be deleted later stay, for the reaper."""
        with self._lock:
            pending = set(self._pending)
            timers, self._timers = list(self._timers.values()), {}
        for timer in timers:
            timer.cancel()
        wait(pending)

    def _schedule(self, removal: "_Removal", after: float) -> None:
        if after <= 0:
            self._submit(removal)
            return
        timer = threading.Timer(after, self._submit, (removal,))
        timer.daemon = True
        with self._lock:
            self._timers[removal.name] = timer
        timer.start()

    def _submit(self, removal: "_Removal") -> None:
        with self._lock:
            self._timers.pop(removal.name, None)
            future = self._threads.submit(self._delete, removal)
            self._pending.add(future)
        future.add_done_callback(self._done)

    def _done(self, future: "Future[None]") -> None:
        with self._lock:
            self._pending.discard(future)

    def _delete(self, removal: "_Removal") -> None:
        try:
            self._api.delete_pod(removal.namespace, removal.name, grace=GRACE, uid=removal.uid)
        except (EngineUnavailable, Refused) as error:
            if removal.uid and isinstance(error, Refused) and error.status == HTTPStatus.CONFLICT:
                return  # it is gone, and another has its name
            passes = isinstance(error, EngineUnavailable) or error.status in refusals.TRANSIENT
            pause = again.pause(removal.tries)
            if passes and removal.uid and pause is not None:
                logger.info("pod %s/%s is not deleted yet: %s", removal.namespace, removal.name, error)
                self._schedule(replace(removal, tries=removal.tries + 1), pause)
                return
            logger.warning(
                "pod %s/%s is not deleted, the reaper will try again when this worker is gone: %s",
                removal.namespace,
                removal.name,
                error,
            )


@dataclass(frozen=True)
class _Removal:
    namespace: str
    name: str
    uid: str
    tries: int = 1
