"""What earlier runs of a task needed, in the broker's Redis. It goes by itself: tasks may shrink again."""

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from .broker import Broker
from .sizing import Suggestion, suggest
from .usagestore import UsageStore

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger("cellwork")

#: Seconds: between two looks at what tasks used, and after which a task is looked at again.
_PERIOD, _FRESH = 1.0, 60.0

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


class Sizes:
    """What tasks should ask for, as far as a producer knows: asked for in a thread, so that sending never waits for it.

    Of one application; safe to use from many threads.
    """

    def __init__(self, app: "Celery", headroom: float) -> None:
        """`headroom`: see `sizing.suggest`."""
        self._broker = Broker(app)
        #: Of other brokers it knows nothing.
        self._possible = str(app.conf.broker_url).startswith(("redis", "sentinel"))
        self._headroom = headroom
        self._lock = threading.Lock()
        self._known: dict[str, Suggestion | None] = {}
        self._looked: dict[str, float] = {}
        self._wanted: set[str] = set()
        self._looking = False
        self._last = -_PERIOD

    def now(self, task: str) -> Suggestion | None:
        """As it was seen last; a new look is begun where that is old. None: nothing is known yet."""
        now = time.monotonic()
        with self._lock:
            if now - self._looked.get(task, -_FRESH) >= _FRESH:
                self._wanted.add(task)
            idle = self._possible and not self._looking and now - self._last >= _PERIOD
            begin = self._looking = bool(self._wanted) if idle else self._looking
            found = self._known.get(task)
        if idle and begin:
            threading.Thread(target=self._look, name="cellwork-sizes", daemon=True).start()
        return found

    def look(self, task: str) -> Suggestion | None:
        """Look now.

        Raises:
            redis.RedisError
        """
        summaries = UsageStore(self._broker).summaries(task)
        found = suggest(summaries[0], self._headroom) if summaries else None
        with self._lock:
            self._known[task], self._looked[task] = found, time.monotonic()
            self._wanted.discard(task)
        return found

    def close(self) -> None:
        """Disconnect."""
        self._broker.close()

    def _look(self) -> None:
        import redis

        with self._lock:
            wanted = list(self._wanted)
        try:
            for task in wanted:
                self.look(task)
        except redis.RedisError as error:
            logger.warning("what tasks used is not known, and they are sent with what they ask for: %s", error)
        finally:
            with self._lock:
                self._looking, self._last = False, time.monotonic()
