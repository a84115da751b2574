"""kombu's Redis transport, without its gap between taking a message and noting that it is taken.

The original takes a message with BRPOP and notes it in another request: a worker that dies in between, a connection
that breaks, or a reply that nobody reads any more loses the message. Here one script takes and notes it. What waits is
a BRPOP on a list of wake-up tokens beside each queue, which may well get lost: after a second at the latest a consumer
looks anyway, so producers without this transport are served too, a little later.
"""

import logging
from collections.abc import Callable, Mapping
from queue import Empty
from time import monotonic, time
from typing import Any

import redis
from kombu.transport import redis as original
from kombu.transport.virtual import QoS as VirtualQoS
from kombu.utils.json import dumps, loads

from . import fairness
from .takescript import PURGE, PUT, SEND, TAKE

logger = logging.getLogger("cellwork")

#: Tokens kept for one queue, and seconds that they last: they wake those who wait, nobody else needs them.
_MAX_TOKENS, _TOKEN_SECONDS = 64, 60

#: Of what is no message, the newest so many are kept for somebody to look at.
_MAX_UNREADABLE = 100


class QoS(original.QoS):
    """Knows which messages are noted already."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note it, unless that was done when it was taken."""
        taken: set[str] = self.channel.taken  # type: ignore[attr-defined]
        if delivery_tag in taken:
            taken.discard(delivery_tag)
            VirtualQoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """As ever; and what waits until fewer of its kind run is looked at."""
        delivered: Any = self._delivered
        message = delivered.get(delivery_tag)
        super().ack(delivery_tag)
        self.channel.freed(message)  # type: ignore[attr-defined]

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """The same."""
        delivered: Any = self._delivered
        message = delivered.get(delivery_tag)
        super().reject(delivery_tag, requeue)
        self.channel.freed(message)  # type: ignore[attr-defined]


class _Taking:
    """Mixed into kombu's channels."""

    QoS: Any = QoS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        #: Delivery tags that are noted and not yet handed on.
        self.taken: set[str] = set()
        self._unacknowledged: set[str] = set()
        self._more = False
        self._clients: dict[str, redis.Redis] = {}
        #: The last ones, by whether asynchronous.
        self._pools: dict[bool, Any] = {}
        super().__init__(*args, **kwargs)

    def basic_consume(self: Any, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        """As ever."""
        (self._unacknowledged.add if no_ack else self._unacknowledged.discard)(queue)
        return super().basic_consume(queue, no_ack, *args, **kwargs)  # type: ignore[misc]

    def _put(self: Any, queue: str, message: Mapping[str, Any], **kwargs: Any) -> None:
        batch = kwargs.get("_publish_batch")
        share = fairness.of(message)
        if share is None and batch is None and queue not in (self._expires or ()):
            self._send(queue, message)
            return
        put = None if share is None else self._put_in_group(queue, message, share, "LPUSH")
        if put is None:
            super()._put(queue, message, **kwargs)  # type: ignore[misc]
        if batch is not None:
            if put is not None:
                batch.add("eval", *put)
            batch.add("lpush", self._tokens(queue), "1")
            return
        # Both or neither: whoever is told of an error sends it again.
        with self._plain().pipeline(transaction=put is not None) as pipe:
            if put is not None:
                pipe.eval(*put)
            self._wake(pipe, queue, self.global_keyprefix)
            pipe.execute()

    def _send(self: Any, queue: str, message: Mapping[str, Any]) -> None:
        """A message without a share, and the token: both or neither, as above."""
        keys = (self._q_for_pri(queue, self._get_message_priority(message, reverse=False)), self._tokens(queue))
        send = self._plain().register_script(SEND)
        send([self.global_keyprefix + key for key in keys], [dumps(message), _MAX_TOKENS, _TOKEN_SECONDS])

    def _put_in_group(self: Any, queue: str, message: Any, share: fairness.Share, push: str) -> tuple[Any, ...]:
        """Arguments of EVAL, which kombu's prefixing leaves alone."""
        key = self.global_keyprefix + self._q_for_pri(queue, self._get_message_priority(message, reverse=False))
        keys = (key, key + fairness.RING, key + fairness.GROUP + share.group)
        return (PUT, 3, *keys, fairness.placeholder(message), share.group, fairness.entry(share, message), push)

    def _do_restore_message(
        self: Any, payload: Any, exchange: str, routing_key: str, pipe: Any, leftmost: bool = False
    ) -> None:
        if (share := fairness.of(payload)) is None:
            super()._do_restore_message(payload, exchange, routing_key, pipe, leftmost)  # type: ignore[misc]
        else:
            payload["headers"]["redelivered"] = True
            for queue in self._lookup(exchange, routing_key):
                # As kombu does it: the right end is the one that is taken from.
                pipe.eval(*self._put_in_group(queue, payload, share, "LPUSH" if leftmost else "RPUSH"))
        for queue in self._lookup(exchange, routing_key):
            self._wake(pipe, queue, "")  # kombu's pipeline adds the prefix

    def freed(self: Any, message: Any) -> None:
        """It is acknowledged: others of its kind may run in its stead."""
        share = None if message is None else fairness.of({"headers": message.headers})
        if share is None or not share.caps:
            return
        with self._plain().pipeline(transaction=False) as pipe:
            for name, _ in share.caps:
                pipe.srem(self.global_keyprefix + fairness.RUNNING + name, message.delivery_tag)
            for queue in self.active_queues:
                self._wake(pipe, queue, self.global_keyprefix)
            pipe.execute()

    def _purge(self: Any, queue: str) -> int:
        self._empty_groups(queue)
        return int(super()._purge(queue))  # type: ignore[misc]

    def _delete(self: Any, queue: str, *args: Any, **kwargs: Any) -> None:
        self._empty_groups(queue)
        super()._delete(queue, *args, **kwargs)  # type: ignore[misc]

    def _empty_groups(self: Any, queue: str) -> None:
        keys = [self.global_keyprefix + self._q_for_pri(queue, priority) for priority in self.priority_steps]
        self._plain().eval(PURGE, len(keys), *keys)

    def _wake(self, pipe: Any, queue: str, prefix: str) -> None:
        key = prefix + self._tokens(queue)
        pipe.lpush(key, "1")
        if prefix or not getattr(self, "global_keyprefix", ""):
            # Of these, kombu's prefixing pipeline knows nothing.
            pipe.ltrim(key, 0, _MAX_TOKENS - 1)
            pipe.expire(key, _TOKEN_SECONDS)

    def _tokens(self, queue: str) -> str:
        return f"{queue}.cellwork-wake"

    def _get_pool(self: Any, asynchronous: bool = False) -> Any:
        """As ever. Once its connection broke or its channel was closed, kombu has forgotten how to connect, while tasks
        that came by it are still to be acknowledged, and the worker would end with an AttributeError: the pool that
        there was connects anew."""
        if self.connection is None or self.connection.client is None:
            return self._pools[asynchronous]
        self._pools[asynchronous] = super()._get_pool(asynchronous)  # type: ignore[misc]
        return self._pools[asynchronous]

    def _plain(self: Any) -> "redis.Redis":
        """A client that adds no prefix."""
        found: redis.Redis = self._kept("plain", lambda: redis.Redis(connection_pool=self.pool))
        return found

    def _create_client(self: Any, asynchronous: bool = False) -> Any:
        """kombu makes one for each request, which costs more than many a request."""
        create = super()._create_client  # type: ignore[misc]
        return create(asynchronous) if asynchronous else self._kept("kombu's", create)

    def _kept(self: Any, name: str, create: "Callable[[], redis.Redis]") -> "redis.Redis":
        """One for as long as its pool is this channel's: a broken connection gives it another."""
        found: redis.Redis | None = self._clients.get(name)
        if found is None or found.connection_pool is not self.pool:
            found = self._clients[name] = create()
        return found

    def _brpop_start(self: Any, timeout: float | None = None) -> None:
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        wait = self.brpop_timeout if timeout is None else timeout
        self._in_poll = self.client.connection
        self._brpop_sent_at = monotonic()
        if self._more:
            # The queues had more than the message just now: look for it at once, when the loop comes round.
            self._asked = ("PING",)
        else:
            self._asked = ("BRPOP", *(self.global_keyprefix + self._tokens(queue) for queue in queues), wait or 0)
        self.client.connection.send_command(*self._asked)

    def _brpop_read(self: Any, **options: Any) -> bool:
        try:
            try:
                self.client.parse_response(self.client.connection, self._asked[0], **options)
            except self.connection_errors:
                # The next round connects again.
                self.client.connection.disconnect()
                raise
            if self._closing:
                raise Empty
            return bool(self._take())
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()

    def _get(self: Any, queue: str, timeout: float | None = None) -> Any:
        """One message, at once, which is not noted: what ``basic_get`` takes."""
        found = self._run_take([(queue, self._q_for_pri(queue, priority)) for priority in self.priority_steps], False)
        if found is None:
            raise Empty
        return loads(found[1].decode())

    def _run_take(self: Any, asked: list[tuple[str, str]], note: bool) -> Any:
        """See `TAKE`. `asked`: queue, and its list."""
        keys = [self.unacked_key, self.unacked_index_key, fairness.RUNNING, *(key for _, key in asked)]
        noted = ["1" if note and queue not in self._unacknowledged else "0" for queue, _ in asked]
        return self._plain().register_script(TAKE)([self.global_keyprefix + key for key in keys], [time(), *noted])

    def _take(self: Any) -> bool:
        queues = self._queue_cycle.consume(len(self.active_queues))
        asked = [(queue, self._q_for_pri(queue, priority)) for priority in self.priority_steps for queue in queues]
        self._more = False
        try:
            found = self._run_take(asked, True)
        except redis.exceptions.OutOfMemoryError as error:
            logger.error("Redis is full: no message can be taken until it has room (maxmemory): %s", error)
            raise Empty from None
        if found is None:
            raise Empty
        self._more = bool(found[3])
        queue = asked[int(found[0])][0]
        self._queue_cycle.rotate(queue)
        try:
            message = loads(found[1].decode())
            tag = message["properties"]["delivery_tag"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            self._set_aside(queue, found[1], error)
            raise Empty from None
        if found[2]:
            self.taken.add(tag)
        self.connection._deliver(message, queue)
        return True

    def _set_aside(self: Any, queue: str, raw: bytes, error: Exception) -> None:
        key = f"{self.global_keyprefix}{queue}.cellwork-unreadable"
        logger.error("queue %s had something that is no message (%s); it is kept in the list %s", queue, error, key)
        with self._plain().pipeline() as pipe:
            pipe.lpush(key, raw)
            pipe.ltrim(key, 0, _MAX_UNREADABLE - 1)
            pipe.execute()


class Channel(_Taking, original.Channel):
    """Of a Redis server."""


class SentinelChannel(_Taking, original.SentinelChannel):
    """Of a Redis server behind sentinels."""


class Transport(original.Transport):
    """``redis://`` and ``rediss://``."""

    Channel = Channel


class SentinelTransport(original.SentinelTransport):
    """``sentinel://``."""

    Channel = SentinelChannel
