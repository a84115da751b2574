"""Which image a name means: told by the engine's events, so that no task has to ask."""

import logging
import threading
from collections.abc import Callable

from docker.errors import APIError, ImageNotFound

from cellwork.errors import EngineUnavailable

from .engine import Engine

logger = logging.getLogger("cellwork.worker")

#: Seconds until the events are asked for again after the connection broke; doubled each time, up to the second figure.
_RETRY, _MAX_RETRY = 0.5, 30.0


class ImageWatch:
    """Watches names of images."""

    def __init__(self, engine: Engine, tell: Callable[[str, str | None], None]) -> None:
        """`tell`: called with a name and the id of the image that it means now, None where there is none."""
        self._engine = engine
        self._tell = tell
        self._names: set[str] = set()
        self._lock = threading.Lock()
        self._connected = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def current(self) -> bool:
        """False while the engine's events cannot be seen, so that a name may mean something else unnoticed."""
        return self._connected.is_set()

    def watch(self, name: str) -> None:
        """Watch a name from here on.

        Raises:
            EngineUnavailable: the engine's events cannot be seen.
        """
        with self._lock:
            self._names.add(name)
            if self._thread is None:
                self._thread = threading.Thread(target=self._follow, name="docker-images", daemon=True)
                self._thread.start()
        if not self._connected.wait(_MAX_RETRY):
            raise EngineUnavailable(f"the engine at {self._engine.address} does not report its events")

    def _follow(self) -> None:
        retry = _RETRY
        while True:
            try:
                with self._engine.errors("to follow its events"):
                    events = self._engine.client.events(filters={"type": ["image"]}, decode=True)
                    self._connected.set()
                    retry = _RETRY
                    self._look()
                    for _ in events:
                        self._look()
            except (EngineUnavailable, APIError) as error:
                logger.info("warm sandboxes wait until the engine's events can be followed again: %s", error)
            self._connected.clear()
            threading.Event().wait(retry)
            retry = min(retry * 2, _MAX_RETRY)

    def _look(self) -> None:
        with self._lock:
            names = list(self._names)
        for name in names:
            self._tell(name, self._id(name))

    def _id(self, name: str) -> str | None:
        try:
            return str(self._engine.client.inspect_image(name)["Id"])
        except ImageNotFound:
            return None
