"""Calls that are due later, in a thread of their own: time limits must fire whatever the event loop is doing."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable


class Deadlines:
    """A few hundred timers in one thread."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
        self._thread.start()

    def after(self, seconds: float, call: Callable[[], None]) -> Callable[[], None]:
        """Call `call`, which must not block, in so many seconds. Returns what cancels it."""
        number = next(self._numbers)
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + seconds, number, call))
            self._changed.notify()

        def cancel() -> None:
            with self._changed:
                if any(entry[1] == number for entry in self._due):
                    self._due = [entry for entry in self._due if entry[1] != number]
                    heapq.heapify(self._due)

        return cancel

    def close(self) -> None:
        """End the thread; nothing is called any more."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        while (call := self._next()) is not None:
            call()

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                if self._due and self._due[0][0] <= now:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(self._due[0][0] - now if self._due else None)
        return None
