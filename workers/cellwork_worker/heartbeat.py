"""What a live worker says of itself in Redis, for as long as it lives."""

import os
import socket
from collections.abc import Iterator

import msgspec

from cellwork.broker import Broker


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """One worker."""

    #: Celery's node name.
    worker: str
    #: Of this process: a worker that was started again under the same name has another.
    boot: str
    #: Where its sandboxes are: workers with the same place can adopt one another's.
    place: str
    executor: str
    #: It takes tasks for pods, too.
    pods: bool = False
    #: Seconds; must be the same on all.
    visibility_timeout: float
    host: str = msgspec.field(default_factory=socket.gethostname)
    pid: int = msgspec.field(default_factory=os.getpid)


def beat(broker: Broker, heartbeat: Heartbeat) -> None:
    """Say that it lives; good for one visibility timeout.

    Raises:
        redis.RedisError
    """
    key = broker.key("worker", heartbeat.worker)
    broker.client.set(key, msgspec.json.encode(heartbeat), px=int(broker.visibility_timeout * 1000))


def end(broker: Broker, heartbeat: Heartbeat) -> None:
    """It leaves in good order.

    Raises:
        redis.RedisError
    """
    broker.client.delete(broker.key("worker", heartbeat.worker))


def live(broker: Broker) -> Iterator[Heartbeat]:
    """The workers of this installation that live.

    Raises:
        redis.RedisError
    """
    for key in broker.client.scan_iter(match=broker.key("worker", "*"), count=1000):
        # Its time may have run out since it was listed.
        if (text := broker.client.get(key)) is not None:
            yield msgspec.json.decode(text, type=Heartbeat)
