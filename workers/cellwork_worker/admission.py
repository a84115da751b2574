"""Who may have a share of a machine, and who waits for one. Pure: no threads, no clock."""

from collections.abc import Hashable

import msgspec

#: How often others may go before one that waits, because they are small enough and it is not. A large one waits for
#: them, but not for ever.
MOST_PASSED = 16


class Size(msgspec.Struct, frozen=True):
    """Of a sandbox, or of a machine: bytes, processors."""

    memory: int
    cpus: float

    def __add__(self, other: "Size") -> "Size":
        return Size(self.memory + other.memory, self.cpus + other.cpus)

    def within(self, other: "Size") -> bool:
        """True where it is not more than `other`, to a thousandth of a processor."""
        return self.memory <= other.memory and self.cpus <= other.cpus + 0.0005


class _Waiting(msgspec.Struct):
    size: Size
    passed: int = 0


class Admission:
    """Of one machine."""

    def __init__(self, total: Size) -> None:
        self.total = total
        self._admitted: dict[Hashable, Size] = {}
        #: In the order in which they came.
        self._waiting: dict[Hashable, _Waiting] = {}

    def __contains__(self, who: Hashable) -> bool:
        """True where it has its share."""
        return who in self._admitted

    @property
    def used(self) -> Size:
        """By all that have a share."""
        return sum(self._admitted.values(), start=Size(0, 0.0))

    @property
    def waiting(self) -> int:
        """How many have none yet."""
        return len(self._waiting)

    def ask(self, who: Hashable, size: Size) -> None:
        """It gets a share at once, or waits for one. `size` must be within `total`, or it would wait for ever."""
        self._waiting[who] = _Waiting(size)
        self._level()

    def count(self, who: Hashable, size: Size) -> None:
        """It runs already: it has its share, whether there is room or not."""
        self._admitted[who] = size

    def leave(self, who: Hashable) -> None:
        """It gives its share back, or waits no longer."""
        self._admitted.pop(who, None)
        self._waiting.pop(who, None)
        self._level()

    def _level(self) -> None:
        passed: list[_Waiting] = []
        used = self.used
        for who, one in list(self._waiting.items()):
            if any(earlier.passed >= MOST_PASSED for earlier in passed):
                return
            if not (used + one.size).within(self.total):
                passed.append(one)
                continue
            del self._waiting[who]
            self._admitted[who] = one.size
            used += one.size
            for earlier in passed:
                earlier.passed += 1
