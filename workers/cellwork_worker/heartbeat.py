"""What a live worker says of itself in Redis, for as long as it lives."""

import os
import socket
import time
from collections.abc import Iterator

import msgspec

from cellwork.broker import Broker

#: Seconds after its last beat in which a worker stays in the index of all.
_FORGET = 86400


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """One worker."""

    #: Celery's node name.
    worker: str
    #: Of this process: a worker that was started again under the same name has another.
    boot: str
    #: Where its sandboxes are: workers with the same place can adopt one another's.
    place: str
    executor: str
    #: That it takes tasks from.
    queues: tuple[str, ...] = ()
    #: Seconds; must be the same on all.
    visibility_timeout: float
    host: str = msgspec.field(default_factory=socket.gethostname)
    pid: int = msgspec.field(default_factory=os.getpid)


def beat(broker: Broker, heartbeat: Heartbeat) -> None:
    """Say that it lives; good for one visibility timeout.

    Raises:
        redis.RedisError
    """
    key, index, now = broker.key("worker", heartbeat.worker), broker.key("workers"), time.time()
    with broker.client.pipeline() as pipe:
        pipe.set(key, msgspec.json.encode(heartbeat), px=int(broker.visibility_timeout * 1000))
        pipe.zadd(index, {heartbeat.worker: now})
        # What has died is not in the way for ever. Clocks may differ, and the beat itself says whether it lives.
        pipe.zremrangebyscore(index, "-inf", now - _FORGET)
        pipe.expire(index, _FORGET)
        pipe.execute()


def end(broker: Broker, heartbeat: Heartbeat) -> None:
    """It leaves in good order.

    Raises:
        redis.RedisError
    """
    with broker.client.pipeline() as pipe:
        pipe.delete(broker.key("worker", heartbeat.worker))
        pipe.zrem(broker.key("workers"), heartbeat.worker)
        pipe.execute()


def live(broker: Broker) -> Iterator[Heartbeat]:
    """The workers of this installation that live.

    Raises:
        redis.RedisError
    """
    for beat in broker.beats():
        yield msgspec.json.decode(beat, type=Heartbeat)
