"""The router: what routing.py decides, and where tasks that may go either way go when the queue is long."""

import logging
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import msgspec

from . import fairness, routing, settings
from . import spec as specs
from .errors import InvalidSetting, NoWorker
from .routing import KUBERNETES_QUEUE, Asked, Route
from .spec import EXECUTORS, ContainerSpec

if TYPE_CHECKING:
    from celery import Celery

    from .traffic import Snapshot

logger = logging.getLogger("cellwork")

#: Seconds between two warnings about the same executor.
_WARN_EVERY = 60.0


class Router:
    """Of one application. Made when its first task is sent."""

    def __init__(self, app: "Celery") -> None:
        """Raises:
        InvalidSetting: the settings are wrong.
        """
        from .learned import Sizes
        from .traffic import Traffic  # with Redis' client, which is slow to import

        self._settings = settings.load(app)
        self._rules = routing.parse_rules(self._settings.route)
        self._heavy = routing.parse_heavy(self._settings.heavy)
        self._own = _callable(self._settings.router)
        self._default_queue = str(app.conf.task_default_queue)
        self._traffic = Traffic(app, self._default_queue)
        self._sizes = Sizes(app, self._settings.learn_headroom)
        self._warned: dict[str, float] = {}

    def asked(self, **known: Any) -> Asked:
        """What is known of a task, with the installation's defaults."""
        asked = Asked(**known)
        said = specs.merge(asked.declared, asked.called)
        learned = self._learned(asked.name, said)
        spec = specs.merge(specs.merge(self._settings.defaults, learned), said)
        return msgspec.structs.replace(asked, spec=spec, learned=learned)

    def decide(self, asked: Asked, snapshot: "Snapshot | None" = None) -> Route:
        """The route; nothing is sent.

        Args:
            asked: see `asked`.
            snapshot: how the cluster stands; None: as it was seen last, if it was.

        Raises:
            NoWorker: nobody takes from its queue, and ``unserved = "error"``.
        """
        own = None if self._own is None else self._own_route
        route = routing.route(asked, self._rules, self._heavy, own)
        if self._overflows(route, asked):
            seen = snapshot or self._traffic.now()
            if seen is not None and (why := self._full(seen)) is not None:
                route = Route("kubernetes", KUBERNETES_QUEUE, why)
        if self._settings.unserved != "off" and not asked.name.startswith("celery."):
            self._check_served(route, asked, snapshot)
        return route

    def _learned(self, task: str, said: ContainerSpec) -> ContainerSpec:
        """Memory and cpus that it does not say; never waits for Redis."""
        learn = said.learn or self._settings.defaults.learn or self._settings.learn
        if learn != "on" or said.executor == "inline" or task.startswith("celery."):
            return ContainerSpec()
        if (found := self._sizes.now(task)) is None:
            return ContainerSpec()
        most = said.memory_max or self._settings.defaults.memory_max
        memory = found.memory if most is None else min(found.memory, most)
        return ContainerSpec(
            # Swap is told together with memory: one without the other would be refused.
            memory=memory if said.memory is None and said.memory_swap is None else None,
            cpus=found.cpus if said.cpus is None else None,
        )

    def share(self, asked: Asked) -> dict[str, Any] | None:
        """Of its queue, as its message says it; None: it waits in line like any other."""
        settings_ = self._settings
        found = fairness.share(asked.name, asked.spec, settings_.installation, settings_.key_max_running)
        return None if found is None else msgspec.to_builtins(found)

    def look(self) -> "Snapshot | None":
        """How the cluster stands now; None: the broker does not say."""
        import redis

        try:
            return self._traffic.look()
        except redis.RedisError as error:
            logger.warning("the broker does not say how it stands: %s", error)
            return None

    def _own_route(self, asked: Asked) -> Route | None:
        answer = None if self._own is None else self._own(asked)
        if isinstance(answer, Route):
            # An explicit queue stays.
            return answer if asked.queue is None else msgspec.structs.replace(answer, queue=None)
        if answer is None:
            return None
        if answer not in EXECUTORS:
            raise InvalidSetting(
                f"router {self._settings.router!r} answered {answer!r:.60} for task {asked.name}; None, a Route or one "
                f"of {', '.join(EXECUTORS)} is expected"
            )
        queue = KUBERNETES_QUEUE if answer == "kubernetes" and asked.queue is None else None
        return Route(answer, queue, "router of the application's own")

    def _overflows(self, route: Route, asked: Asked) -> bool:
        limits = (self._settings.overflow_length, self._settings.overflow_seconds)
        return (
            any(limit is not None for limit in limits)
            and route.executor == "docker"
            and route.either_way
            and not specs.bound_to_a_host(asked.spec)
        )

    def _full(self, seen: "Snapshot") -> str | None:
        longest, oldest = self._settings.overflow_length, self._settings.overflow_seconds
        if KUBERNETES_QUEUE not in seen.served:
            return None
        if longest is not None and seen.waiting > longest:
            return f"overflow: {seen.waiting} messages wait > {longest}"
        if oldest is not None and seen.oldest is not None and seen.oldest > oldest:
            return f"overflow: the oldest message waits {seen.oldest:.0f} s > {oldest:g} s"
        return None

    def _check_served(self, route: Route, asked: Asked, snapshot: "Snapshot | None") -> None:
        queue = route.queue or asked.queue or self._default_queue

        def problem(what: str) -> str:
            return (
                f"task {asked.name} goes to queue {queue!r} (executor {route.executor}: {route.reason}), and no worker "
                f"that lives takes from it: {what}; start one with -Q {queue}"
            )

        def warn(seen: "Snapshot") -> None:
            overdue = time.monotonic() - self._warned.get(queue, -_WARN_EVERY) >= _WARN_EVERY
            if queue not in seen.served and overdue:
                self._warned[queue] = time.monotonic()
                logger.warning("%s", problem("it waits until one comes"))

        seen = snapshot or self._traffic.now()
        if self._settings.unserved == "error":
            # What was seen a moment ago does not know of a worker that has just come.
            if (seen is None or queue not in seen.served) and snapshot is None:
                seen = self.look()
            if seen is not None and queue not in seen.served:
                raise NoWorker(problem("nothing was sent"))
        elif seen is not None:
            warn(seen)
        else:
            self._traffic.tell(queue, warn)

    def close(self) -> None:
        """Disconnect."""
        self._traffic.close()
        self._sizes.close()


def of(app: Any) -> Router:
    """The app's. It is made late: settings may still change until the first task is sent."""
    app._cellwork_router = found = getattr(app, "_cellwork_router", None) or Router(app)
    return found


def _callable(given: Any) -> Callable[[Asked], Any] | None:
    if given is None or callable(given):
        return given  # type: ignore[no-any-return]
    module, _, name = str(given).partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidSetting(f"router={given!r}: {error}; 'module:function' is expected") from None
    if not callable(found):
        raise InvalidSetting(f"router={given!r} is no function")
    return found  # type: ignore[no-any-return]


def users_queue(app: Any, name: str, args: Any, kwargs: Any, options: Mapping[str, Any], task: Any) -> str | None:
    """The queue that the application's own ``task_routes`` name; None: they name none."""
    theirs = app.amqp.router
    found = theirs.lookup_route(name, args or (), kwargs or {}, options, task) if theirs.routes else None
    if isinstance(found, Mapping):
        found = found.get("queue") or found.get("routing_key") or found.get("exchange")
    return None if found is None else str(getattr(found, "name", found))


def kept(header: Mapping[str, Any] | None) -> Route | None:
    """The route of an earlier try of the same task, which a retry keeps."""
    earlier = header.get("route") if header else None
    if not isinstance(earlier, Mapping) or earlier.get("executor") not in EXECUTORS:
        return None
    reason = str(earlier.get("reason"))
    return Route(str(earlier["executor"]), None, reason if reason.endswith(", kept") else f"{reason}, kept")
