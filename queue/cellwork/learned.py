"""What earlier runs of a task needed, in the broker's Redis. It goes by itself: tasks may shrink again."""

from typing import Any

from .broker import Broker

#: KEYS: the task's. ARGV: bytes, seconds. A size that was found later and is less does not replace a larger one, nor
#: make that last longer.
_NEEDED = """
if tonumber(redis.call('GET', KEYS[1]) or '0') < tonumber(ARGV[1]) then
  redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
end
"""


class Needs:
    """Memory that tasks needed which were killed for having less. All methods may raise `redis.RedisError`."""

    def __init__(self, broker: Broker, ttl: float) -> None:
        """`ttl`: seconds that one is remembered."""
        self._broker = broker
        self._ttl = max(1, int(ttl))

    def note(self, task: str, memory: int) -> None:
        """A run of `task` was killed for memory with less, and ended well with so many bytes."""
        self._broker.client.register_script(_NEEDED)(keys=[self._key(task)], args=[memory, self._ttl])

    def of(self, task: str) -> int | None:
        """Bytes; None: nothing is known."""
        found: Any = self._broker.client.get(self._key(task))
        return None if found is None else int(found)

    def _key(self, task: str) -> str:
        return self._broker.key("needs", task)
