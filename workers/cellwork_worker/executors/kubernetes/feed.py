"""One list and one watch of a kind of objects in a namespace, however many wait for what they tell."""

import logging
import threading
from abc import ABC, abstractmethod

from cellwork.errors import EngineUnavailable

from . import refusals
from .api import Api, Selection
from .connection import Refused
from .objects import WatchEvent

logger = logging.getLogger("cellwork.worker")

#: Seconds between two tries to reach an API server that does not answer; doubled from the first to the last.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0

#: The resource version is too old to go on from (API concepts, "410 Gone responses").
_EXPIRED = 410


class Feed(ABC):
    """Its thread lives as long as the process; it starts when somebody wants to know."""

    def __init__(self, api: Api, selection: Selection) -> None:
        self._api = api
        self._selection = selection
        #: Guards what the subclass knows, too.
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wanted = threading.Event()
        #: From where it goes on when a watch ends, however that comes; empty: it begins anew, with a list.
        self._version = ""
        #: Seconds before the next try to reach an API server that did not answer.
        self._pause = _FIRST_PAUSE
        #: The refusal that was logged last: one that stays is said once.
        self._told = ""

    @abstractmethod
    def _list(self) -> str:
        """Look at what there is; returns from where a watch goes on."""

    @abstractmethod
    def _take(self, event: WatchEvent) -> str:
        """Something happened, or a minute or so has passed (BOOKMARK); returns from where a watch goes on after it."""

    def _want(self) -> None:
        """Somebody wants to know. To be called with the lock held."""
        self._wanted.set()
        if self._thread is None:
            name = f"{self._selection.kind}-{self._selection.namespace}"
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()

    def _rest(self) -> None:
        """Nobody does. To be called with the lock held."""
        self._wanted.clear()

    def _run(self) -> None:
        while True:
            # Without pods of its own a worker does not keep the API server busy.
            if not self._wanted.is_set():
                self._version = ""
                self._wanted.wait()
            try:
                self._version = self._version or self._list()
                self._follow()
            except Refused as refused:
                if refused.status != _EXPIRED:
                    self._tell(str(refusals.error(self._doing(), refused.status, refused.said)))
                    self._wait()
                self._version = ""
            except EngineUnavailable as error:
                logger.warning("%s", error)
                self._wait()

    def _follow(self) -> None:
        for event in self._api.watch(self._selection, self._version):
            if event.type == "ERROR":
                said = refusals.refusal(bytes(event.object))
                raise Refused(said.code, said)
            self._version, self._pause, self._told = self._take(event) or self._version, _FIRST_PAUSE, ""
            if not self._wanted.is_set():
                break

    def _wait(self) -> None:
        threading.Event().wait(self._pause)
        self._pause = min(_LONGEST_PAUSE, self._pause * 2)

    def _tell(self, trouble: str) -> None:
        if trouble != self._told:
            logger.error("%s", trouble)
        self._told = trouble

    def _doing(self) -> str:
        return f"to watch the {self._selection.kind} of namespace {self._selection.namespace}"
