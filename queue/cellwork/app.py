"""``configure``: makes a Celery application one whose tasks run in sandboxes."""

import functools
import inspect
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeVar

from celery import Celery
from celery.app.amqp import AMQP
from celery.app.task import Task as CeleryTask
from celery.utils import uuid
from celery.utils.imports import symbol_by_name
from kombu.exceptions import EncodeError
from kombu.messaging import Producer

from . import adhoc, broker, idempotency, pins, router, routing, settings
from . import spec as specs
from .arguments import invalid_argument
from .errors import InvalidSetting
from .spec import FIELDS, ContainerSpec
from .task import Task, check_declaration, sandboxed

A = TypeVar("A", bound=Celery)

#: Where the user says nothing. Celery's environment variables (CELERY_BROKER_URL …) win over all of it.
DEFAULTS: Mapping[str, Any] = {
    "broker_url": "redis://localhost:6379/0",
    "result_backend": "redis://localhost:6379/1",
    "broker_connection_retry_on_startup": True,
    "task_serializer": "json",
    "result_serializer": "json",
    "accept_content": ["json"],
    "result_accept_content": ["json"],
    "task_default_queue": "docker",
    # A task is acknowledged when its outcome is stored, so that a dead worker's tasks are delivered again.
    "task_acks_late": True,
    # A sandbox takes long compared with a message: what waits should wait where any worker can take it.
    "worker_prefetch_multiplier": 1,
    "worker_pool": "cellwork_worker.pool:SandboxPool",
    # A chain's next task is sent when the one before has succeeded: better late than never. About five minutes.
    "task_publish_retry_policy": {"max_retries": 300, "interval_start": 0, "interval_step": 0.2, "interval_max": 1},
    # A sandbox runs on while the broker is away; the second delivery finds it by its name.
    "worker_cancel_long_running_tasks_on_connection_loss": False,
}

_JSON_ONLY = ("task_serializer", "result_serializer", "accept_content", "result_accept_content")


def configure(app: A, **given: Any) -> A:
    """Make `app` run its tasks in sandboxes. Call it where the app is made; tasks declared before are checked here.

    The app's own settings stay and win, whether they are made before or after.

    Args:
        app: the application; it is changed, and returned.
        **given: settings (`cellwork.settings.Settings`), for this app.

    Raises:
        InvalidSetting: one of them is unknown or wrong, or tasks declared before were used already.
        InvalidSpec: of a task that was declared before.
    """
    settings.check(given)
    if getattr(app, "_cellwork", False):
        app.conf.update(cellwork={**(app.conf.get("cellwork") or {}), **given})
        broker.set_transport_options(app)
        return app
    # Private parts of Celery, and attributes that it does not declare: Any says so to the type checker.
    inner: Any = app
    if used := [name for name in inner._tasks if not name.startswith("celery.")]:
        raise InvalidSetting(
            f"configure(app) comes too late: {', '.join(used)} was declared before, and used already; call it right "
            f"after Celery(…)"
        )
    _adopt_pending(inner)
    inner._cellwork = True
    broker.register_transport()
    # Evaluated once Celery has read the user's settings: what those say is left out.
    app.add_defaults(lambda: {key: value for key, value in DEFAULTS.items() if not _says(inner._conf, key)})
    app.add_defaults(lambda: {"cellwork": given})
    inner.on_after_configure.connect(broker.set_transport_options, weak=False)
    # Where somebody has asked for `app.Task`, it was made of the class before.
    vars(inner).pop("Task", None)
    # A name, as Celery's own default and, in a Django project, "celery.contrib.django.task:DjangoTask".
    base: Any = symbol_by_name(inner.task_cls)
    if base is CeleryTask:
        inner.task_cls = Task
    elif isinstance(base, type) and issubclass(base, CeleryTask):
        inner.task_cls = sandboxed(base)
    else:
        raise InvalidSetting(f"configure(app): task_cls={base!r} is not accepted; give a class of tasks, or its name")
    inner.task = _checked_task(app, app.task)
    inner.send_task = _checked_send(app, app.send_task)
    adhoc.declare(app)
    if "flower.command" in sys.modules and "flower" in sys.argv:
        # `celery -A … flower`, which has imported it before the application. Nobody else needs the pages.
        import_module("cellwork.flower").install()
    return app


def _says(conf: Any, key: str) -> bool:
    """True where the user's own settings have `key`. Celery puts defaults that are added before a config object's."""
    return any(spelling in level for level in conf.maps[:-1] for spelling in conf._to_keys(key))


def require_json(app: Celery) -> None:
    """What goes into and comes out of a sandbox is JSON.

    Raises:
        InvalidSetting: the app's settings ask for something else.
    """
    for name in _JSON_ONLY:
        value = app.conf.get(name)
        kinds = [value] if isinstance(value, str) else list(value or ())
        other = [kind for kind in kinds if kind not in ("json", "application/json")]
        if other:
            raise InvalidSetting(f"{name}={value!r} is not accepted: with cellwork, messages and results are json only")


def _adopt_pending(app: Any) -> None:
    """Check the tasks that were declared before: Celery makes them from their options when somebody uses them.

    Raises:
        InvalidSpec: of one of them.
    """
    for proxy in app._pending:
        (function,) = object.__getattribute__(proxy, "_Proxy__args")
        options = object.__getattribute__(proxy, "_Proxy__kwargs")
        name = options.get("name") or app.gen_task_name(function.__name__, function.__module__)
        # In place: whoever makes the task, this app or one that shares it, reads these.
        checked = check_declaration(function, name, options)
        options.clear()
        options.update(checked)


def _checked_task(app: Celery, declare: Callable[..., Any]) -> Callable[..., Any]:
    """``app.task``, which Celery evaluates late, with the checks at the line where it is written."""

    @functools.wraps(declare)
    def task(*args: Any, **options: Any) -> Any:
        if args and not callable(args[0]):
            return declare(*args, **options)  # Celery's own complaint

        def decorator(function: Callable[..., Any]) -> Any:
            name = options.get("name") or app.gen_task_name(function.__name__, function.__module__)
            return declare(**check_declaration(function, name, options))(function)

        return decorator(args[0]) if args else decorator

    return task


#: Everything that Celery and kombu take when a message is sent; what is not here becomes a property that nobody reads.
_SEND_OPTIONS = frozenset(
    name
    for function in (Celery.send_task, CeleryTask.apply_async, AMQP.as_task_v2, AMQP.as_task_v1, Producer.publish)
    for name in inspect.signature(function).parameters
) | frozenset(
    {
        "queue", "exchange_type", "event_dispatcher", "ignore_result", "callbacks", "errbacks", "correlation_id",
        "message_id", "timestamp", "type", "user_id", "app_id", "cluster_id", "redelivered", "delivery_tag",
        "task_type", "link", "link_error", "stamped_headers", "retry", "retry_policy", "immutable", "subtask_type",
        "compression", "producer", "loglevel", "logfile", "visitor", "x-delay", "argsrepr", "kwargsrepr",
    }
)  # fmt: skip


def _checked_send(app: Any, send: Callable[..., Any]) -> Callable[..., Any]:
    """``app.send_task``, where all of delay, apply_async, canvas and retry end: checks, routes, writes the header."""

    @functools.wraps(send)
    def send_task(name: str, args: Any = None, kwargs: Any = None, *more: Any, **options: Any) -> Any:
        require_json(app)
        task = options.get("task_type") or app._tasks.get(name)
        # A stamp is an option of every task of a canvas. Celery wants to find it where it is.
        stamps = FIELDS.intersection(options.get("stamped_headers") or ()) & options.keys()
        stamped = specs.parse(name, {stamp: specs.innermost(options[stamp]) for stamp in stamps})
        said = {option: options.pop(option) for option in (FIELDS - stamps) & options.keys()}
        key = options.pop("idempotency_key", None)
        _check_options(name, options)
        called = specs.merge(_inherited(name, options), specs.parse(name, said))
        declared = getattr(task, "cellwork_spec", None) or ContainerSpec()
        called = pins.of(app).pin(specs.merge(declared, stamped), called)
        queue = options.get("queue") or getattr(task, "queue", None)
        queue = queue or router.users_queue(app, name, args, kwargs, options, task)
        earlier = None if said else router.kept((options.get("headers") or {}).get("cellwork"))
        asked = router.of(app).asked(
            name=name,
            declared=declared,
            called=specs.merge(stamped, called),
            queue=getattr(queue, "name", queue),
            time_limit=options.get("time_limit") or getattr(task, "time_limit", None),
            args=args or (),
            kwargs=kwargs or {},
            parameters=routing.parameters(task),
        )
        route = earlier or router.of(app).decide(asked)
        if route.queue is not None:
            options["queue"] = route.queue
        header: dict[str, Any] = {
            "spec": specs.to_header(specs.merge(asked.learned, called)),
            "route": {"executor": route.executor, "reason": route.reason}
            | ({"either_way": True} if route.either_way else {}),
            "sent": time.time(),
        }
        if (share := router.of(app).share(asked)) is not None:
            header["share"] = share
        key = None if key is None else idempotency.check(name, key, options)
        if (kept := key or _inherited_key(options)) is not None:
            header["idempotency_key"] = kept
        options["headers"] = {**(options.get("headers") or {}), "cellwork": header}

        def destination() -> str:
            routed = app.amqp.router.route({**options}, name, args, kwargs, task)
            return str(getattr(routed.get("queue"), "name", routed.get("routing_key")))

        def go() -> Any:
            from . import tracing  # not before something is sent: an import that declares tasks is to be quick

            try:
                return tracing.publish(
                    name, options["headers"], destination, lambda: send(name, args, kwargs, *more, **options)
                )
            except (EncodeError, TypeError) as error:
                raise invalid_argument(name, args, kwargs, error) or error from None

        return go() if key is None else _once(app, name, key, options, go)

    return send_task


def _once(app: Any, name: str, key: str, options: dict[str, Any], send: Callable[[], Any]) -> Any:
    """Send, unless a task has this key: then give the result of that one."""
    # One client for the app: connections are made once.
    app._cellwork_keys = keys = getattr(app, "_cellwork_keys", None) or idempotency.Keys(app)
    task_id = options["task_id"] = options.get("task_id") or uuid()
    holder = keys.take(name, key, task_id)
    if holder != task_id:
        return app.AsyncResult(holder)
    try:
        result = send()
    except BaseException:
        keys.free(name, key, task_id)
        raise
    keys.sent(name, key, task_id)
    return result


def _inherited_key(options: Mapping[str, Any]) -> str | None:
    """The idempotency key that an earlier try of this task was sent with."""
    header = (options.get("headers") or {}).get("cellwork")
    return header.get("idempotency_key") if isinstance(header, Mapping) else None


def _inherited(name: str, options: Mapping[str, Any]) -> ContainerSpec:
    """What an earlier try of this task was sent with: Celery gives a retry the headers of its request."""
    header = (options.get("headers") or {}).get("cellwork")
    spec = header.get("spec") if isinstance(header, Mapping) else None
    return specs.from_header(name, spec) if spec else ContainerSpec()


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    stamps = frozenset(options.get("stamped_headers") or ())
    for option, value in options.items():
        if option not in _SEND_OPTIONS and option not in stamps:
            raise specs.unknown_option(name, option, value, FIELDS | _SEND_OPTIONS)
