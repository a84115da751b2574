"""A bounded rate of requests, so that hundreds of pods do not drown the API server."""

import threading
import time


class Limiter:
    """A token bucket: `burst` requests at once, then `rate` a second."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._lock = threading.Lock()
        self._free = float(burst)
        self._at = time.monotonic()

    def acquire(self) -> None:
        """Wait for the turn of one request; turns are given in the order of the calls."""
        with self._lock:
            now = time.monotonic()
            self._free = min(self._burst, self._free + (now - self._at) * self._rate) - 1
            self._at = now
            pause = -self._free / self._rate
        if pause > 0:
            time.sleep(pause)
