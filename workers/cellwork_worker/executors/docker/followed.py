"""A container's log from its first line to its last: what adoption reads."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import requests
from docker.errors import NotFound
from docker.types import CancellableStream
from urllib3.exceptions import HTTPError

_READ_BYTES = 1 << 16

#: Seconds before a log that broke off is asked for anew; doubled from the first to the last.
PATIENCE, _LONGEST_PAUSE = 0.5, 5.0

#: Seconds between two looks whether a container still runs.
_LOOK = 0.01


class Followed:
    """Read by one thread; `close` may be called from any."""

    def __init__(
        self, open_log: Callable[[bool], requests.Response], runs: Callable[[], bool], patience: float
    ) -> None:
        """Args:
        open_log: asks the engine for the log from its beginning; True: to be followed while the container runs.
            Raises NotFound.
        runs: whether the container does.
        patience: seconds that it is given to have ended.
        """
        self._open_log = open_log
        self._runs = runs
        self._lock = threading.Lock()
        self._closed = threading.Event()
        # Following a container that ends at that moment may hang (engine 20.10).
        self._whole = not self._runs_on(patience)
        self._response = open_log(not self._whole)
        self._taken = 0

    def read(self, size: int) -> bytes:
        """At most `size` bytes of output; nothing at the end, or once `close` was called."""
        pause = PATIENCE
        while not (data := self._read(size)) and not self._whole and not self._closed.is_set():
            # The connection broke; or the container has ended, and then engine 20.10 may end its followed log before
            # it has sent all (measured: one of eight logs of 0.9 MB, up to 0.7 MB short). The outcome comes last.
            runs = self._runs_on(pause)
            pause = min(_LONGEST_PAUSE, pause * 2)
            self._whole = not runs
            try:
                self._skip(follow=runs)
            except NotFound:
                return b""
        self._taken += len(data)
        return data

    def _runs_on(self, seconds: float) -> bool:
        """Whether it runs, and goes on doing so for so many seconds."""
        deadline = time.monotonic() + seconds
        while runs := self._runs():
            if time.monotonic() > deadline or self._closed.wait(_LOOK):
                break
        return runs

    def close(self) -> None:
        """Disconnect; wakes a thread that is in `read`, which closing the response alone would wait for."""
        with self._lock:
            self._closed.set()
            response = self._response
        with suppress(OSError, AttributeError):  # it is at its end
            CancellableStream(iter(()), response).close()
        response.close()

    def _read(self, size: int) -> bytes:
        try:
            return bytes(self._response.raw.read1(size))
        except (OSError, HTTPError, AttributeError, ValueError):
            return b""

    def _skip(self, *, follow: bool) -> None:
        """Begin anew, where the last reading ended."""
        self._again(follow=follow)
        left = self._taken
        while left and (data := self._read(min(left, _READ_BYTES))):
            left -= len(data)
        if left and not follow:
            # Shorter than what was read: it was rotated meanwhile. Lines twice are better than no outcome.
            self._again(follow=False)

    def _again(self, *, follow: bool) -> None:
        self._response.close()
        fresh = self._open_log(follow)
        with self._lock:
            self._response = fresh
        if self._closed.is_set():
            fresh.close()
