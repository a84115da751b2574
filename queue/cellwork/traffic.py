"""What the router knows of the cluster: how long the queue is, and which queues somebody takes from.

Asked for in a thread, at most once a second, with a short timeout: sending a task never waits for it.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import redis
from kombu.utils.json import loads

from .broker import Broker

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger("cellwork")

#: Seconds: between two looks, and after which one is too old to act on.
_PERIOD, _STALE = 1.0, 10.0

#: Seconds that a look waits where there was one before: the task that made it begin is sent first.
_AFTER = 0.02


class Snapshot(msgspec.Struct, frozen=True):
    """How it was a moment ago."""

    #: Messages in the queue, and the age of the oldest one in seconds; None: it does not say.
    waiting: int
    oldest: float | None
    #: Queues that the workers which live take from.
    served: frozenset[str]
    #: By the monotonic clock.
    at: float


class Traffic:
    """Of one application; safe to use from many threads."""

    def __init__(self, app: "Celery", queue: str) -> None:
        """`queue`: the one that may overflow."""
        self._broker = Broker(app)
        #: Of other brokers it knows nothing.
        self._possible = str(app.conf.broker_url).startswith(("redis", "sentinel"))
        self._queue = queue
        self._lock = threading.Lock()
        self._looking = False
        self._asked = -_PERIOD
        self._last: Snapshot | None = None
        #: By what each is about, those who want to be told of the first look.
        self._curious: dict[str, Callable[[Snapshot], None]] = {}

    def now(self) -> Snapshot | None:
        """The last look, and a new one is begun where that is a second old. None: nothing is known."""
        with self._lock:
            begin = self._possible and not self._looking and time.monotonic() - self._asked >= _PERIOD
            self._looking = self._looking or begin
            last = self._last
        if begin:
            threading.Thread(target=self._look, name="cellwork-traffic", daemon=True).start()
        return last if last is not None and time.monotonic() - last.at < _STALE else None

    def tell(self, about: str, then: Callable[[Snapshot], None]) -> None:
        """Have `then` called after the look that `now` has begun; once for all that ask about the same meanwhile."""
        with self._lock:
            if self._looking:
                self._curious.setdefault(about, then)

    def look(self) -> Snapshot:
        """Look now; the broker must be a Redis.

        Raises:
            redis.RedisError
        """
        client: Any = self._broker.client
        with client.pipeline(transaction=False) as pipe:
            for key in self._broker.lists(self._queue):
                pipe.llen(key).lindex(key, -1)
            found = pipe.execute()
        ages = [age for message in found[1::2] if (age := _age(message)) is not None]
        served = {queue for beat in self._broker.beats() for queue in loads(beat).get("queues", ())}
        snapshot = Snapshot(sum(found[::2]), max(ages, default=None), frozenset(served), time.monotonic())
        with self._lock:
            self._last = snapshot
        return snapshot

    def _look(self) -> None:
        if self._last is not None:
            time.sleep(_AFTER)
        try:
            self.look()
        except redis.RedisError as error:
            logger.warning("the router cannot see how the broker stands, and routes without that: %s", error)
        finally:
            with self._lock:
                self._looking, self._asked = False, time.monotonic()
                curious, self._curious = self._curious, {}
                last = self._last
            if last is not None:
                for then in curious.values():
                    then(last)

    def close(self) -> None:
        """Disconnect."""
        self._broker.close()


def _age(message: bytes | None) -> float | None:
    """Seconds since the message was sent, as its own header says."""
    if message is None:
        return None
    try:
        sent = loads(message.decode())["headers"]["cellwork"]["sent"]
        return max(0.0, time.time() - float(sent))
    except (ValueError, LookupError, TypeError, RecursionError):
        return None  # of another producer
