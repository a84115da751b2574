"""Ending containers in the background, so that a task's outcome does not wait for it."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus

from docker.errors import APIError

from cellwork.errors import EngineUnavailable
from cellwork_worker.executors import again

from .engine import Engine

logger = logging.getLogger("cellwork.worker")

#: Removals at once, and how many may wait before a task that ends waits with them: the engine removes about as fast
#: as it starts, so a longer queue would only hide that it cannot keep up.
_REMOVERS, _MAX_PENDING = 4, 64

#: Seconds that one which is about to end is given: to kill it costs the engine a tenth of what its whole life does.
_ENDS_WITHIN = 0.1


class Remover:
    """Kills and removes containers by name."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._threads = ThreadPoolExecutor(_REMOVERS, thread_name_prefix="docker-remove")
        self._room = threading.BoundedSemaphore(_MAX_PENDING)
        self._lock = threading.Lock()
        self._pending: dict[str, _Removal] = {}

    def later(
        self,
        name: str,
        reference: str,
        then: Callable[[bool], None] = lambda removed: None,
        *,
        ending: bool = False,
    ) -> None:
        """Remove it in the background, and tell `then` whether it is gone. Waits while too many are waiting.

        Args:
            name: what `wait` knows it by.
            reference: what the engine does, its id or its name.
            then: told in the background.
            ending: it is about to end by itself.
        """
        due = time.monotonic() + (_ENDS_WITHIN if ending else 0.0)
        self._room.acquire()
        with self._lock:
            if name in self._pending:
                self._room.release()
                self._pending[name].then.append(then)
                return
            removal = self._pending[name] = _Removal([then], Future())
        self._threads.submit(self._work, name, reference, removal, due)

    def now(self, name: str) -> None:
        """Remove it; nothing happens where there is none.

        Raises:
            EngineUnavailable: no engine answers.
            APIError: the engine refuses.
        """
        try:
            with self._engine.errors(f"to remove sandbox {name}"):
                if self._engine.podman:
                    # It would ask it to end, and give it ten seconds.
                    self._engine.signal(name, "SIGKILL")
                # Its volumes, too: an image can declare them, and they would stay for ever.
                self._engine.client.remove_container(name, force=True, v=True)
        except APIError as error:
            # CONFLICT: somebody else is removing it.
            if error.status_code not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                raise

    def wait(self, name: str | None = None) -> bool:
        """Wait for the removal of `name`, or of all that are under way. False: there was none.

        What the engine refuses to remove is in the log.

        Raises:
            EngineUnavailable: no engine answered.
        """
        with self._lock:
            pending = [removal.done for key, removal in self._pending.items() if name in (None, key)]
        for done in pending:
            done.result()
        return bool(pending)

    def _work(self, name: str, reference: str, removal: "_Removal", due: float) -> None:
        # The engine can be asked to wait for its end, which costs it more than this does.
        time.sleep(max(0.0, due - time.monotonic()))
        failed: Exception | None = None
        try:
            self.now(reference)
        except (EngineUnavailable, APIError) as error:
            failed = error
            self._not_removed(name, reference, error)
        while then := self._next(name, removal):
            then(failed is None)
        self._room.release()
        if isinstance(failed, EngineUnavailable):
            removal.done.set_exception(failed)
        else:
            removal.done.set_result(None)

    def _not_removed(self, name: str, reference: str, error: Exception, tries: int = 1) -> None:
        """Try again where the engine was away. Not by its name, which may be another one's by then."""
        pause = again.pause(tries)
        if not isinstance(error, EngineUnavailable) or reference == name or pause is None:
            logger.warning("container %s is not removed: %s", name, error)
            return
        logger.warning("container %s is not removed: %s; it will be tried again in %g s", name, error, pause)
        timer = threading.Timer(pause, self._again, (name, reference, tries + 1))
        timer.daemon = True
        timer.start()

    def _again(self, name: str, reference: str, tries: int) -> None:
        try:
            self.now(reference)
        except (EngineUnavailable, APIError) as error:
            self._not_removed(name, reference, error, tries)

    def _next(self, name: str, removal: "_Removal") -> Callable[[bool], None] | None:
        """Who is to be told next; the removal counts as pending until all are."""
        with self._lock:
            if removal.then:
                return removal.then.pop()
            del self._pending[name]
            return None


@dataclass(frozen=True)
class _Removal:
    #: Told whether it is gone.
    then: list[Callable[[bool], None]]
    done: "Future[None]"
