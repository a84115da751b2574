"""The settings of an installation: what they mean, where they come from, and their check."""

import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from . import routing
from . import spec as specs
from .errors import InvalidSetting
from .quantity import parse_bytes
from .spec import ContainerSpec

if TYPE_CHECKING:
    from celery import Celery


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Later sources win: these defaults, cellwork.toml, ``configure(app, …)``, the environment (CELLWORK_<NAME>)."""

    #: What runs a task that is routed to ``docker`` on this worker. ``process`` isolates nothing. A worker that
    #: consumes the queue ``kubernetes`` alone runs pods, whatever stands here.
    executor: Literal["docker", "process", "kubernetes", "inline"] = "docker"
    #: How often a sandbox that was lost to the infrastructure is replaced; the task's own retries are not touched.
    infra_retries: int = 3
    #: Seconds before the first of these tries; doubled for each further one.
    infra_backoff: float = 1.0
    #: Seconds that a task waits for an engine or cluster that does not answer, or refuses because of itself. A Docker
    #: engine restarts in about ten.
    engine_patience: float = 120.0
    #: Bytes of JSON that a task may return.
    result_max_bytes: int = 8 << 20
    #: Bytes of arguments and code that go into a sandbox.
    payload_max_bytes: int = 64 << 20
    #: Bytes of a sandbox's output that the engine keeps.
    log_max_bytes: int = 10 << 20
    #: Bytes of a task's output that are kept in Redis for ``cellwork logs``; the newest stay.
    log_stream_bytes: int = 4 << 20
    #: Entries of it, of one or more lines each; the newest stay.
    log_stream_entries: int = 10_000
    #: Seconds that it is kept after the task's last line.
    log_stream_ttl: int = 24 * 3600
    #: Bytes of output that an error quotes.
    log_tail_bytes: int = 4096
    #: Seconds between a signal that asks a sandbox to end and the one that kills it.
    kill_grace: float = 10.0
    #: Sandboxes started ahead of need, per shape (same options, image and code): kept however idle, and at most.
    #: They follow the number of tasks that ran at once; `warm_max` 0 turns them off.
    warm_min: int = 0
    warm_max: int = 8
    #: Seconds without a task of its shape after which a warm sandbox goes.
    warm_idle_seconds: float = 60.0
    #: Bytes: the memory limits of all warm sandboxes of a worker, added up.
    warm_memory_bytes: int = 4 << 30
    #: Bytes of memory, and processors, that this worker's sandboxes may have together; None: the engine's, less
    #: `host_memory_reserve` bytes for the system and the worker. Say so where several workers share an engine.
    host_memory: int | None = None
    host_cpus: float | None = None
    host_memory_reserve: int = 512 << 20
    #: The processors that running tasks ask for may add up to so many times the host's. 0: without a bound, for
    #: processors are shared, and only get slower; memory that is not there kills.
    cpu_overcommit: float = 0.0
    #: Seconds for which it is remembered how much memory a task needed that was killed for having less (`memory_max`):
    #: its next runs start with that.
    learned_ttl: float = 7 * 86400.0
    #: Tasks of one `fair_key` that may run at once, on all workers. None: as many as there are slots.
    key_max_running: int | None = None
    #: What becomes of what a task's runs used, where it does not say memory and cpus itself. ``on``: the next ones ask
    #: for that, and are heavy or light by it; ``suggest``: ``cellwork usage --suggest`` tells it; ``off``: nothing.
    learn: Literal["off", "suggest", "on"] = "suggest"
    #: How many times the memory that was enough for 95 % of the runs.
    learn_headroom: float = 1.25
    #: Seconds after which the tasks of a worker that has died are delivered again. Workers renew theirs every quarter
    #: of it, so a task may run for longer. The same for every process on a broker: the shortest one wins.
    visibility_timeout: float = 60.0
    #: How often a task is delivered without giving an outcome before it fails as `Poisoned`.
    max_deliveries: int = 5
    #: Seconds that a worker which shuts down waits for what runs; None: as long as that takes.
    drain_seconds: float | None = None
    #: What then happens to the rest. ``leave``: its sandbox runs on, and the next worker adopts it; ``requeue``: its
    #: sandbox is ended, and the next worker starts anew.
    drain: Literal["leave", "requeue"] = "leave"
    #: Seconds after a success in which the same ``idempotency_key`` gives the same result.
    idempotency_ttl: float = 86400.0
    #: What every task gets that does not say otherwise; same options as on a task.
    defaults: ContainerSpec = ContainerSpec()
    #: The same for the tasks of a queue, by its name; they win over `defaults`.
    queue_defaults: dict[str, ContainerSpec] = {}
    #: Rules of the router, in order: ``{match = {task = "ml.*", memory = ">=8g"}, executor = "kubernetes"}``.
    route: tuple[Any, ...] = ()
    #: What makes a task heavy, and so a pod: more than so much of cpus, memory, gpus, time_limit (seconds).
    heavy: dict[str, Any] = {}
    #: A function of the application's own, asked before the rules: ``module:function``, or the function. It gets a
    #: `cellwork.routing.Asked` and gives the name of an executor, a `cellwork.routing.Route`, or None for "the rules
    #: decide".
    router: Any = None
    #: Messages in the default queue, and age in seconds of its oldest one, above which tasks that may go either way
    #: become pods. None: they never do.
    overflow_length: int | None = None
    overflow_seconds: float | None = None
    #: What happens to a task for a queue that no worker takes from that lives.
    unserved: Literal["warn", "error", "off"] = "warn"
    #: Namespace of pods whose task names none; None: the service account's, or the kubeconfig context's.
    kube_namespace: str | None = None
    #: Context of the kubeconfig; None: its current one.
    kube_context: str | None = None
    #: Requests a second that a worker makes of the API server.
    kube_qps: float = 50.0
    #: Registries, as images' names have them, that a worker may ask what an image runs, so that a command in a pod can
    #: be measured; ``*``: all. It asks with its own Docker logins, and the pod has the image by the digest that it is
    #: told.
    kube_registries: tuple[str, ...] = ()
    #: Logs of pods that a worker follows at once; beyond that, output comes when the pod has ended.
    log_followers: int = 512
    #: Seconds that the pod of a task which failed without an outcome stays, to be looked at.
    keep_failed_for: float = 0.0
    #: Folder of the secrets that tasks name, one file each; then CELLWORK_SECRET_<NAME> in the worker's environment.
    secrets_dir: str | None = None
    #: File of images' digests that ``cellwork images push --digests`` wrote. Producers put the digest into the message,
    #: so that every executor runs the same bytes.
    image_digests: str | None = None
    #: The worker's policy (cellwork_worker.policy.Policy).
    policy: dict[str, Any] = {}
    #: Keeps installations that share an engine or a Redis apart.
    installation: str = "default"


_SCALARS: dict[str, Callable[[str], object]] = {
    "executor": str,
    "installation": str,
    "secrets_dir": str,
    "image_digests": str,
    "infra_backoff": float,
    "engine_patience": float,
    "kill_grace": float,
    "warm_idle_seconds": float,
    "visibility_timeout": float,
    "drain_seconds": float,
    "drain": str,
    "router": str,
    "overflow_seconds": float,
    "unserved": str,
    "kube_namespace": str,
    "kube_context": str,
    "kube_qps": float,
    "kube_registries": lambda text: [word.strip() for word in text.split(",") if word.strip()],
    "keep_failed_for": float,
    "idempotency_ttl": float,
    "host_memory": str,
    "host_cpus": float,
    "host_memory_reserve": str,
    "cpu_overcommit": float,
    "learned_ttl": float,
    "learn": str,
    "learn_headroom": float,
}

#: Bytes, with or without a unit.
_SIZES = ("host_memory", "host_memory_reserve")

#: Not in the environment.
_TABLES = ("defaults", "queue_defaults", "policy", "route", "heavy")

#: With the unit. Below that `visibility_timeout`, a worker that is merely busy would be taken for a dead one.
_LEAST = {
    "visibility_timeout": (1.0, " s"),
    "host_memory": (1.0, " byte"),
    "host_cpus": (0.01, " processors"),
    "host_memory_reserve": (0.0, " bytes"),
    "cpu_overcommit": (0.0, ""),
    "key_max_running": (1.0, ""),
    "learn_headroom": (1.0, ""),
}


def load(app: "Celery") -> Settings:
    """The settings of `app` in this process.

    Raises:
        InvalidSetting: names setting, source, value and what is accepted.
        InvalidSpec: of `defaults`.
    """
    values: dict[str, Any] = {}
    for source, found in (_file(), ("configure()", app.conf.get("cellwork") or {}), _environment()):
        for name, value in found.items():
            values[name] = _checked(source, name, value)
    return Settings(**values)


def check(given: Mapping[str, Any]) -> None:
    """Check what a caller of ``configure`` gave.

    Raises:
        InvalidSetting, InvalidSpec.
    """
    for name, value in given.items():
        _checked("configure()", name, value)


def _file() -> tuple[str, Mapping[str, Any]]:
    path = Path(os.environ.get("CELLWORK_CONFIG", "cellwork.toml"))
    if not path.exists():
        if "CELLWORK_CONFIG" in os.environ:
            raise InvalidSetting(f"CELLWORK_CONFIG={path}: there is no such file")
        return str(path), {}
    try:
        table = tomllib.loads(path.read_text()).get("cellwork", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"{path}: not TOML: {error}") from None
    return str(path), table


def _environment() -> tuple[str, Mapping[str, Any]]:
    found: dict[str, Any] = {}
    for name in Settings.__struct_fields__:
        text = os.environ.get(f"CELLWORK_{name.upper()}")
        if text is not None and name not in _TABLES:
            try:
                found[name] = _SCALARS.get(name, int)(text)
            except ValueError:
                raise InvalidSetting(f"CELLWORK_{name.upper()}={text!r}: a number is expected") from None
    return "environment", found


def _checked(source: str, name: str, value: Any) -> Any:
    if name not in Settings.__struct_fields__:
        known = ", ".join(Settings.__struct_fields__)
        raise InvalidSetting(f"{source}: unknown setting {name}={value!r}; settings are {known}")
    if name == "defaults":
        return _options(source, name, value)
    if name in ("route", "heavy"):
        try:
            (routing.parse_rules if name == "route" else routing.parse_heavy)(value)
        except ValueError as error:
            raise InvalidSetting(f"{source}: {name}: {error}") from None
    if name == "queue_defaults":
        if not isinstance(value, Mapping):
            raise InvalidSetting(f"{source}: queue_defaults={value!r}; a mapping of queue names is expected")
        return {queue: _options(source, f"queue_defaults.{queue}", options) for queue, options in value.items()}
    if name in _SIZES and isinstance(value, str):
        value = _bytes(source, name, value)
    try:
        setting = msgspec.convert({name: value}, Settings)
    except msgspec.ValidationError as error:
        raise InvalidSetting(f"{source}: {name}={value!r} is not accepted: {error}") from None
    least, unit = _LEAST.get(name, (None, ""))
    if least is not None and value is not None and not value >= least:
        raise InvalidSetting(f"{source}: {name}={value!r} is not accepted: at least {least:g}{unit} is expected")
    return getattr(setting, name)


def _bytes(source: str, name: str, value: str) -> int:
    try:
        return parse_bytes(value)
    except ValueError as error:
        raise InvalidSetting(f"{source}: {name}={value!r} is not accepted: {error} is expected") from None


def _options(source: str, name: str, value: Any) -> ContainerSpec:
    if isinstance(value, ContainerSpec):
        return value
    if not isinstance(value, Mapping):
        raise InvalidSetting(f"{source}: {name}={value!r}; a mapping of task options is expected")
    return specs.parse(f"({name})", value)
