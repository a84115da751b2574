"""How many warm sandboxes of one shape are wanted. Pure: it is told the time."""

import msgspec


class WarmLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of a worker's warm sandboxes."""

    #: Kept of every shape that a task has asked for, however long ago.
    min: int = 0
    #: Most of one shape. 0: none at all.
    max: int = 8
    #: Seconds without a task of the shape after which no more than `min` are kept.
    idle_seconds: float = 60.0
    #: Bytes: the memory limits of all that wait, added up.
    memory: int = 4 << 30


class Demand:
    """Of one shape: as many as ran at once within the last `idle_seconds`, and one more.

    The one more is there for the task that comes while the sandbox of the one before is still being replaced.
    """

    def __init__(self, limits: WarmLimits) -> None:
        self._limits = limits
        self.running = 0
        self._peak = 0
        self._peak_at = 0.0
        self.asked_at = 0.0
        self._asked = False

    def begin(self, now: float) -> None:
        """A task asks. `now`: seconds, of a clock that never goes back."""
        self.running += 1
        self.asked_at, self._asked = now, True
        if self.running >= self._peak or now - self._peak_at > self._limits.idle_seconds:
            self._peak, self._peak_at = self.running, now

    def end(self) -> None:
        """A task is over."""
        self.running -= 1

    def forget(self) -> None:
        """Nobody has asked yet: none is wanted until a task does."""
        self._peak, self._peak_at, self.asked_at, self._asked = self.running, 0.0, 0.0, False

    def wanted(self, now: float) -> int:
        """How many should wait."""
        most = self._limits.max
        if not self._asked:
            return 0
        if now >= self.expires_at:
            return min(self._limits.min, most)
        return min(max(self._peak + 1, self._limits.min), most)

    @property
    def expires_at(self) -> float:
        """When, unless a task asks again, those beyond the minimum are to go."""
        return self.asked_at + self._limits.idle_seconds
