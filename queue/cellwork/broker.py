"""The broker's Redis: the options that every process shares, and what cellwork keeps beside the queues."""

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kombu.exceptions import OperationalError
from kombu.transport import TRANSPORT_ALIASES

from . import settings

if TYPE_CHECKING:
    import redis
    from celery import Celery

#: Connections that one process may open: every slot may ask at once.
_MAX_CONNECTIONS = 1024

#: Of the visibility timeout, the time between two looks for messages whose worker has died.
_RESTORE_FRACTION = 10


def register_transport() -> None:
    """Make `cellwork.transport` the one of these URLs, for all of kombu in this process. Imported on first use."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = "cellwork.transport:Transport"
    TRANSPORT_ALIASES["sentinel"] = "cellwork.transport:SentinelTransport"


def transport_options(visibility_timeout: float) -> dict[str, Any]:
    """Options of kombu's Redis transport under which a dead worker's messages are back within about that time."""
    return {
        "visibility_timeout": visibility_timeout,
        "unacked_restore_interval": min(10.0, visibility_timeout / _RESTORE_FRACTION),
        # A look at every interval; kombu's own default is every tenth.
        "unacked_restore_throttle": 1,
        # A worker that is killed while it looks must not keep the others from looking for longer than this.
        "unacked_mutex_expire": max(1, int(min(300, visibility_timeout / 4))),
    }


def set_transport_options(sender: "Celery", **_: object) -> None:
    """Give an app the options that follow from its settings. What it says itself stays."""
    conf = sender.conf
    said = conf.get("broker_transport_options") or {}
    ours = getattr(sender, "_cellwork_transport_options", {})
    theirs = {name: value for name, value in said.items() if ours.get(name, object()) != value}
    options = transport_options(settings.load(sender).visibility_timeout)
    sender._cellwork_transport_options = options  # type: ignore[attr-defined]
    conf.broker_transport_options = {**options, **theirs}


class Broker:
    """A client of its own, so that nothing here waits for, or breaks with, the connection that Celery consumes from."""

    def __init__(self, app: "Celery") -> None:
        """Connects on first use.

        Raises:
            InvalidSetting: the settings are wrong.
        """
        # Half of what importing cellwork would cost, so not before somebody sends.
        from kombu.transport.redis import Channel

        self._app = app
        self._installation = settings.load(app).installation
        options = app.conf.get("broker_transport_options") or {}
        self._prefix = str(options.get("global_keyprefix") or "")
        #: Seconds: the transport's, which an app may have set by itself.
        self.visibility_timeout = float(options.get("visibility_timeout") or Channel.visibility_timeout)
        #: kombu's sorted set of unacknowledged messages: delivery tag to the time from which the timeout counts.
        self.unacked_index = self._prefix + str(options.get("unacked_index_key") or Channel.unacked_index_key)

    @property
    def id(self) -> str:
        """Of this Redis, the same in all processes that reach it by the same address; says nothing of its password."""
        address = (
            str(self._app.conf.broker_url).rpartition("@")[2].rpartition("//")[2].replace("localhost", "127.0.0.1")
        )
        return hashlib.sha256(address.encode()).hexdigest()[:12]

    def key(self, *parts: str) -> str:
        """The name of something that cellwork keeps, for this installation only."""
        return f"{self._prefix}cellwork:{self._installation}:{':'.join(parts)}"

    def lists(self, queue: str) -> list[str]:
        """The keys that a queue's messages are in: one for each of kombu's priorities."""
        from kombu.transport.redis import Channel

        options = self._app.conf.get("broker_transport_options") or {}
        steps = options.get("priority_steps") or Channel.priority_steps
        separator = options.get("sep") or Channel.sep
        return [self._prefix + (f"{queue}{separator}{step}" if step else queue) for step in steps]

    def beats(self) -> list[bytes]:
        """What the workers of this installation that live say of themselves.

        Raises:
            redis.RedisError
        """
        return list(self._beats().values())

    def living(self) -> list[str]:
        """Celery's names of these workers.

        Raises:
            redis.RedisError
        """
        return list(self._beats())

    def _beats(self) -> dict[str, bytes]:
        client: Any = self.client
        # From an index: the broker's Redis may have millions of other keys.
        names = [name.decode() for name in client.zrange(self.key("workers"), 0, -1)]
        beats = client.mget([self.key("worker", name) for name in names]) if names else ()
        # Of one that has died its time has run out.
        return {name: beat for name, beat in zip(names, beats, strict=True) if beat is not None}

    @cached_property
    def client(self) -> "redis.Redis":
        """Plain: it adds no prefix to keys. Safe to use from many threads.

        Raises:
            redis.ConnectionError: the broker does not answer.
        """
        import redis

        patience = max(1.0, self.visibility_timeout / 4)
        options = {"socket_timeout": patience, "socket_connect_timeout": patience}
        options |= self._app.conf.get("broker_transport_options") or {}
        options["max_connections"] = _MAX_CONNECTIONS
        # Through kombu, which knows about URLs, TLS, sentinels and credentials.
        self._connection = self._app.connection_for_write(transport_options=options)
        try:
            channel: Any = self._connection.default_channel
        except OperationalError as error:
            # kombu's own word for it; whoever asks for this client knows that of its SDK.
            raise redis.ConnectionError(str(error)) from error
        return redis.Redis(connection_pool=channel.pool)

    def close(self) -> None:
        """Disconnect; a later use connects again."""
        if "client" in self.__dict__:
            del self.__dict__["client"]
            self._connection.close()
