"""A container's log from its first line to its last: what adoption reads."""

import threading
from collections.abc import Callable
from contextlib import suppress

import requests
from docker.types import CancellableStream
from urllib3.exceptions import HTTPError

_READ_BYTES = 1 << 16


class Followed:
    """Read by one thread; `close` may be called from any."""

    def __init__(self, open_log: Callable[[bool], requests.Response], wait_ended: Callable[[], bool]) -> None:
        """Args:
        open_log: asks the engine for the log from its beginning; True: to be followed while the container runs.
        wait_ended: waits until the container has ended. False: it is gone.
        """
        self._open_log = open_log
        self._wait_ended = wait_ended
        self._lock = threading.Lock()
        self._response = open_log(True)
        self._taken = 0
        self._whole = self._closed = False

    def read(self, size: int) -> bytes:
        """At most `size` bytes of output; nothing at the end, or once `close` was called."""
        if not (data := self._read(size)) and not self._whole:
            # When a container ends, engine 20.10 may end its followed log before it has sent all (measured: one of
            # eight logs of 0.9 MB, up to 0.7 MB short). The outcome comes last.
            self._whole = True
            if self._wait_ended():
                self._skip()
                data = self._read(size)
        self._taken += len(data)
        return data

    def close(self) -> None:
        """Disconnect; wakes a thread that is in `read`, which closing the response alone would wait for."""
        with self._lock:
            self._closed = True
            response = self._response
        with suppress(OSError, AttributeError):  # it is at its end
            CancellableStream(iter(()), response).close()
        response.close()

    def _read(self, size: int) -> bytes:
        try:
            return bytes(self._response.raw.read1(size))
        except (OSError, HTTPError, AttributeError, ValueError):
            return b""

    def _skip(self) -> None:
        """Begin anew, where the first reading ended."""
        self._again()
        left = self._taken
        while left and (data := self._read(min(left, _READ_BYTES))):
            left -= len(data)
        if left:
            # Shorter than what was read: it was rotated meanwhile. Lines twice are better than no outcome.
            self._again()

    def _again(self) -> None:
        self._response.close()
        fresh = self._open_log(False)
        with self._lock:
            self._response = fresh
            closed = self._closed
        if closed:
            fresh.close()
