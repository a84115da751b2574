"""Tasks that no worker could give an outcome, kept with their message: to look at, and to send again."""

import time
from typing import Any

import msgspec
from celery import Celery

from .broker import Broker


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """One of them."""

    task: str
    task_id: str
    #: What the task failed with.
    error: str
    deliveries: int
    #: Which worker it was delivered to, and when (ms since the epoch), oldest first.
    history: tuple[tuple[str, int], ...]
    #: The end of what it printed, where its sandbox was still there.
    output: str | None
    #: Where it was sent to.
    exchange: str
    routing_key: str
    #: As kombu stores it in a queue.
    message: dict[str, Any]
    #: The Redis key of its token.
    token: str
    #: Seconds since the epoch.
    died: float = msgspec.field(default_factory=time.time)


class DeadLetters:
    """A hash in the broker's Redis, task id to letter. All methods may raise `redis.RedisError`."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._key = broker.key("dead")

    def add(self, letter: DeadLetter) -> None:
        """Keep it; one with the same task id is replaced."""
        self._broker.client.hset(self._key, letter.task_id, msgspec.json.encode(letter).decode())

    def all(self) -> list[DeadLetter]:
        """All of them, oldest first."""
        found: Any = self._broker.client.hvals(self._key)
        return sorted((_decode(text) for text in found), key=lambda letter: letter.died)

    def get(self, task_id: str) -> DeadLetter | None:
        """The one of that task; None: there is none."""
        text: Any = self._broker.client.hget(self._key, task_id)
        return None if text is None else _decode(text)

    def drop(self, letter: DeadLetter) -> None:
        """Forget it; the task stays failed."""
        self._broker.client.hdel(self._key, letter.task_id)

    def requeue(self, app: Celery, letter: DeadLetter) -> None:
        """Send it again, under the same id, with its deliveries counted anew and its failure forgotten.

        Raises:
            kombu.exceptions.OperationalError: the broker does not take it; nothing is lost.
        """
        message = letter.message
        headers = {key: value for key, value in message["headers"].items() if key != "redelivered"}
        self._broker.client.delete(letter.token)
        app.AsyncResult(letter.task_id).forget()
        with app.connection_for_write() as connection:
            channel: Any = connection.default_channel
            body = channel.decode_body(message["body"], message["properties"].get("body_encoding"))
            # Encoded there again, with a tag of its own.
            fresh = {**message, "body": body, "headers": headers}
            channel.basic_publish(fresh, letter.exchange, letter.routing_key)
        self.drop(letter)


def _decode(text: bytes) -> DeadLetter:
    return msgspec.json.decode(text, type=DeadLetter)
