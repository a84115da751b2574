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
        self._traffic = Traffic(app, str(app.conf.task_default_queue))
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
            NoWorker: nobody serves the executor, and ``unserved = "error"``.
        """
        route = self._own_route(asked) or routing.route(asked, self._rules, self._heavy)
        if self._overflows(route, asked):
            seen = snapshot or self._traffic.now()
            if seen is not None and (why := self._full(seen)) is not None:
                route = Route("kubernetes", KUBERNETES_QUEUE, why)
        if route.executor == "kubernetes" and self._settings.unserved != "off":
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
        if self._own is None:
            return None
        answer = self._own(asked)
        if answer is None or isinstance(answer, Route):
            return answer
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
        if "kubernetes" not in seen.served:
            return None
        if longest is not None and seen.waiting > longest:
            return f"overflow: {seen.waiting} messages wait > {longest}"
        if oldest is not None and seen.oldest is not None and seen.oldest > oldest:
            return f"overflow: the oldest message waits {seen.oldest:.0f} s > {oldest:g} s"
        return None

    def _check_served(self, route: Route, asked: Asked, snapshot: "Snapshot | None") -> None:
        strict = self._settings.unserved == "error"
        seen = snapshot or self._traffic.now() or (self.look() if strict else None)
        if seen is None or route.executor in seen.served:
            return
        message = (
            f"task {asked.name} goes to executor {route.executor!r} ({route.reason}), and no worker that lives has it: "
            f"it waits until one comes; start one with CELLWORK_EXECUTOR={route.executor} -Q {KUBERNETES_QUEUE}"
        )
        if strict:
            raise NoWorker(message.replace("it waits until one comes", "nothing was sent"))
        if time.monotonic() - self._warned.get(route.executor, -_WARN_EVERY) >= _WARN_EVERY:
            self._warned[route.executor] = time.monotonic()
            logger.warning("%s", message)

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


def kept(header: Mapping[str, Any] | None) -> Route | None:
    """The route of an earlier try of the same task, which a retry keeps."""
    earlier = header.get("route") if header else None
    if not isinstance(earlier, Mapping) or earlier.get("executor") not in EXECUTORS:
        return None
    reason = str(earlier.get("reason"))
    return Route(str(earlier["executor"]), None, reason if reason.endswith(", kept") else f"{reason}, kept")
