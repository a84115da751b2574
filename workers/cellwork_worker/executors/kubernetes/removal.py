"""Deleting pods in the background, so that a task's outcome does not wait for it."""

import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait

from cellwork.errors import EngineUnavailable

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

    def later(self, namespace: str, name: str, after: float = 0) -> None:
        """Delete it in the background, `after` so many seconds; its Secret goes with it."""
        if after > 0:
            timer = threading.Timer(after, self._submit, (namespace, name))
            timer.daemon = True
            with self._lock:
                self._timers[name] = timer
            timer.start()
            return
        self._submit(namespace, name)

    def wait(self) -> None:
        """Wait for the deletions that are under way. Pods that were to be kept for a while stay, for the reaper."""
        with self._lock:
            pending = set(self._pending)
            timers, self._timers = list(self._timers.values()), {}
        for timer in timers:
            timer.cancel()
        wait(pending)

    def _submit(self, namespace: str, name: str) -> None:
        with self._lock:
            self._timers.pop(name, None)
            future = self._threads.submit(self._delete, namespace, name)
            self._pending.add(future)
        future.add_done_callback(self._done)

    def _done(self, future: "Future[None]") -> None:
        with self._lock:
            self._pending.discard(future)

    def _delete(self, namespace: str, name: str) -> None:
        try:
            self._api.delete_pod(namespace, name, grace=GRACE)
        except (EngineUnavailable, Refused) as error:
            logger.warning("pod %s/%s is not deleted, the reaper will try again: %s", namespace, name, error)
