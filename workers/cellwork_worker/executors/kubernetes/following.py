"""A container's output from its first byte to its last, over connections that may break."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError

from cellwork.errors import EngineUnavailable

from .api import Api
from .connection import Refused
from .status import CONTAINER
from .watch import Watched

logger = logging.getLogger("cellwork.worker")

_READ_BYTES = 1 << 16

#: Seconds of silence in an ended container's log after which there is no more. Its node may be gone, and the connection
#: open.
_DRAIN = 10.0

#: Seconds for which the API server may go on saying that a container runs whose log is at its end.
_AFTER_LOG = 5.0

#: Seconds before a log that broke off is asked for anew; doubled from the first to the last.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0


class Following:
    """Of one pod. `run` reads in the caller's thread; `interrupt` may be called from any."""

    def __init__(self, api: Api, namespace: str, watched: Watched) -> None:
        self._api = api
        self._namespace = namespace
        self._watched = watched
        self._lock = threading.Lock()
        self._response: BaseHTTPResponse | None = None
        self._interrupted = self._closed = False
        self._drain: threading.Timer | None = None
        self._taken = 0
        #: Since when it waits for the API server; None: it does not.
        self._waits: float | None = None
        watched.on_end = self._on_end

    def run(self, emit: Callable[[bytes], bool]) -> bool:
        """Give all output to `emit`, until that says that it has what it wants: True. False: there is no more."""
        pause = _FIRST_PAUSE
        while not self._interrupted:
            last = self._watched.over
            before = self._taken
            read = self._read(emit, follow=not last)
            if read == "enough":
                return True
            whole = read == "end"
            # The kubelet closes the log seconds before the API server says that the container has ended.
            over = last or self._watched.wait(lambda: False, _AFTER_LOG if whole else pause)
            if last or self._watched.let_go or (over and whole):
                return False
            pause = _FIRST_PAUSE if self._taken > before else min(_LONGEST_PAUSE, pause * 2)
        return False

    def close(self) -> None:
        """No more."""
        self._closed = True
        self._watched.on_end = lambda: None
        if self._drain is not None:
            self._drain.cancel()

    def interrupt(self) -> None:
        """Wake the thread that is in `run`, which returns."""
        with self._lock:
            self._interrupted = True
            response = self._response
        if response is not None:
            with suppress(OSError, ValueError, RuntimeError):  # it was at its end anyway
                response.shutdown()

    def _on_end(self) -> None:
        self._drain = threading.Timer(_DRAIN, self._end_silence)
        self._drain.daemon = True
        self._drain.start()

    def _end_silence(self) -> None:
        waits = self._waits
        if waits is not None and time.monotonic() - waits >= _DRAIN:
            self.interrupt()
        elif not self._closed:
            self._on_end()

    def _next(self, response: BaseHTTPResponse) -> bytes:
        self._waits = time.monotonic()
        try:
            return response.read1(_READ_BYTES)
        finally:
            self._waits = None

    def _read(self, emit: Callable[[bytes], bool], *, follow: bool) -> Literal["enough", "end", "broken"]:
        """One connection: what `_taken` does not count yet."""
        try:
            response = self._api.log(self._namespace, self._watched.name, CONTAINER, follow=follow)
        except Refused as refused:
            # 400: its container is about to start. 404: it is gone. Others pass, or the pod's end tells.
            logger.debug("the log of pod %s: %s", self._watched.name, refused)
            return "broken"
        except EngineUnavailable as error:
            logger.warning("the log of pod %s: %s", self._watched.name, error)
            return "broken"
        with self._lock:
            self._response = response
        skip = self._taken
        try:
            while not self._interrupted and (data := self._next(response)):
                fresh = data[skip:]
                skip = max(0, skip - len(data))
                if fresh:
                    self._taken += len(fresh)
                    if emit(fresh):
                        return "enough"
        except (HTTPError, OSError, ValueError, AttributeError) as error:
            logger.debug("the log of pod %s broke off: %s", self._watched.name, error)
            return "broken"
        finally:
            with self._lock:
                self._response = None
            response.close()
        return "broken" if self._interrupted else "end"
