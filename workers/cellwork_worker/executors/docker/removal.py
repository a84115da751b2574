"""Ending containers in the background, so that a task's outcome does not wait for it."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from http import HTTPStatus

from docker.errors import APIError

from .engine import Engine

#: Removals at once, and how many may wait before a task that ends waits with them: the engine removes about as fast
#: as it starts, so a longer queue would only hide that it cannot keep up.
_REMOVERS, _MAX_PENDING = 4, 64


class Remover:
    """Kills and removes containers by name."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._threads = ThreadPoolExecutor(_REMOVERS, thread_name_prefix="docker-remove")
        self._room = threading.BoundedSemaphore(_MAX_PENDING)
        self._lock = threading.Lock()
        self._pending: dict[str, Future[None]] = {}

    def later(self, name: str, then: Callable[[bool], None] = lambda removed: None) -> None:
        """Remove it in the background, and tell `then` whether it is gone. Waits while too many are waiting."""
        self._room.acquire()
        with self._lock:
            if name in self._pending:
                self._room.release()
                return
            self._pending[name] = self._threads.submit(self._work, name, then)

    def now(self, name: str) -> None:
        """Remove it; nothing happens where there is none.

        Raises:
            EngineUnavailable: no engine answers.
            APIError: the engine refuses.
        """
        try:
            with self._engine.errors(f"to remove sandbox {name}"):
                # Its volumes, too: an image can declare them, and they would stay for ever.
                self._engine.client.remove_container(name, force=True, v=True)
        except APIError as error:
            # CONFLICT: somebody else is removing it.
            if error.status_code not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                raise

    def wait(self, name: str | None = None) -> bool:
        """Wait for the removal of `name`, or of all that are under way. False: there was none.

        Raises:
            EngineUnavailable, APIError: of a removal that failed.
        """
        with self._lock:
            pending = [future for key, future in self._pending.items() if name in (None, key)]
        for future in pending:
            future.result()
        return bool(pending)

    def _work(self, name: str, then: Callable[[bool], None]) -> None:
        removed = False
        try:
            self.now(name)
            removed = True
        finally:
            with self._lock:
                self._pending.pop(name, None)
            self._room.release()
            then(removed)
