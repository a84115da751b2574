"""The namespaces that an installation's pods are in, kept in Redis: a worker that starts must know where to look."""

import logging
import time
from collections.abc import Set
from typing import Any

from redis import RedisError

from cellwork.broker import Broker

logger = logging.getLogger("cellwork.worker")

#: Seconds after its last pod in which a namespace is still looked at: a month.
_FORGET = 30 * 86400


class Namespaces:
    """Of one installation; see `cellwork_worker.executors.base.Names`."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._key = broker.key("namespaces")

    def add(self, name: str) -> None:
        """There is, or will be, a pod in it."""
        now = time.time()
        try:
            with self._broker.client.pipeline() as pipe:
                pipe.zadd(self._key, {name: now})
                pipe.zremrangebyscore(self._key, "-inf", now - _FORGET)
                pipe.expire(self._key, _FORGET)
                pipe.execute()
        except RedisError as error:
            logger.warning("namespace %s is not remembered, should this worker die now: %s", name, error)

    def all(self) -> Set[str]:
        """Those with a pod in the last month."""
        try:
            found: Any = self._broker.client.zrange(self._key, 0, -1)
        except RedisError as error:
            logger.warning("namespaces that other workers used are not looked at now: %s", error)
            return frozenset()
        return {name.decode() for name in found}
