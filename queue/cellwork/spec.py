"""What a task asks for. One frozen value; declared on the task, overridden per call, completed by the worker."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import msgspec

from .errors import InvalidSpec
from .spelling import ACCEPTED, PARSERS

ExecutorName = Literal["docker", "kubernetes", "process", "inline"]
EXECUTORS: tuple[str, ...] = get_args(ExecutorName)


class ContainerSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a task asks for. None is "not said": the worker's defaults apply (docs/options.md has them)."""

    executor: ExecutorName | None = None
    image: str | None = None
    #: When to pull: as ``docker run --pull``.
    pull: Literal["always", "missing", "never"] | None = None
    platform: str | None = None
    entrypoint: tuple[str, ...] | None = None
    #: Command tasks only. False: its program is process 1 of its sandbox, and so has no shell around it that measures.
    init: bool | None = None
    workdir: str | None = None
    env: dict[str, str] | None = None
    #: Environment variable of the body to the name of the worker's secret that it gets; only on the declaration.
    secrets: dict[str, str] | None = None
    user: str | None = None
    hostname: str | None = None
    #: A real cap (CFS quota), not a share.
    cpus: float | None = None
    #: Bytes.
    memory: int | None = None
    #: Bytes: a sandbox that is killed for memory is started again with twice as much, up to this.
    memory_max: int | None = None
    #: Bytes of memory and swap together, as in Docker; equal to `memory` unless said: no swap.
    memory_swap: int | None = None
    shm_size: int | None = None
    #: Processes and threads in the sandbox.
    pids: int | None = None
    #: Name to soft limit, or to (soft, hard).
    ulimits: dict[str, int | tuple[int, int]] | None = None
    gpus: int | None = None
    devices: tuple[str, ...] | None = None
    network: str | None = None
    #: A network namespace made for this run only, instead of one that is reused when empty. Slower.
    fresh_network: bool | None = None
    dns: tuple[str, ...] | None = None
    extra_hosts: dict[str, str] | None = None
    #: ``source:target[:ro]``, as ``docker run -v``.
    volumes: tuple[str, ...] | None = None
    #: Path to size in bytes.
    tmpfs: dict[str, int] | None = None
    read_only: bool | None = None
    labels: dict[str, str] | None = None
    #: OCI runtime known to the engine: ``runc``, ``runsc``, ``crun`` …
    runtime: str | None = None
    #: Name of a seccomp profile that the worker's policy has.
    seccomp: str | None = None
    #: Name of an AppArmor profile that is loaded on the worker's host, and that its policy allows.
    apparmor: str | None = None
    #: What asks the sandbox to end, such as ``SIGINT``.
    stop_signal: str | None = None
    #: Seconds between the stop signal and the kill.
    stop_grace: float | None = None
    #: Bytes of its output that are kept: in Redis, and by the engine, which never keeps less than its worker's setting.
    log_max: int | None = None
    #: Seconds until the sandbox must be running, a pull included.
    start_timeout: float | None = None
    #: ``ship``: the source travels with the task. ``image``: the image carries it.
    code: Literal["ship", "image"] | None = None
    #: Folder that ships instead of the task's top-level module or package.
    code_root: str | None = None
    #: The interpreter inside the image.
    python: str | None = None
    #: Modules imported before the task's own, ahead of need where the sandbox waits warm for it.
    preload: tuple[str, ...] | None = None
    #: May run in a sandbox that was started ahead of need. Each is used for one task all the same.
    warm: bool | None = None
    #: Command tasks only: what becomes of standard output.
    result: Literal["text", "json", "none"] | None = None
    #: Whose task it is: messages of one queue are taken from all keys in turn. And how many of this task may run at
    #: once, on all workers. The queue's business, not the sandbox's.
    fair_key: str | None = None
    max_running: int | None = None
    #: Whether memory and cpus that it does not ask for are those that its runs used: the setting of that name.
    learn: Literal["off", "suggest", "on"] | None = None

    #: From here on for pods only; a task that says one of these is heavy. Where it runs:
    namespace: str | None = None
    service_account: str | None = None
    node_selector: dict[str, str] | None = None
    #: As in a pod's manifest, and so is `affinity`.
    tolerations: tuple[dict[str, Any], ...] | None = None
    affinity: dict[str, Any] | None = None
    priority_class: str | None = None
    scheduler: str | None = None
    #: A LocalQueue of Kueue's, which admits the pod when there is room.
    kueue_queue: str | None = None
    #: Names of Secrets with a registry's login.
    image_pull_secrets: tuple[str, ...] | None = None
    #: Environment variable to ``SECRET/KEY`` of the namespace: the kubelet gives the value, and no worker sees it.
    secret_env: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    #: A pod's manifest, under which cellwork's own is merged; a file of YAML where the task is declared.
    pod_template: dict[str, Any] | None = None


FIELDS: frozenset[str] = frozenset(ContainerSpec.__struct_fields__)

#: Mean nothing to an engine of containers.
POD_FIELDS: tuple[str, ...] = ContainerSpec.__struct_fields__[ContainerSpec.__struct_fields__.index("namespace") :]


def bound_to_a_host(spec: ContainerSpec) -> bool:
    """True where it asks for what only the worker's own host has."""
    mounts = any(volume.startswith("/") for volume in spec.volumes or ())
    return bool(mounts or spec.devices or spec.runtime or spec.network not in (None, "none", "bridge"))


def parse(task: str, options: Mapping[str, Any]) -> ContainerSpec:
    """Check `options` one by one, in the spellings a user may write.

    Args:
        task: the task's name, for the message.
        options: field name to value; None means "not said".

    Raises:
        InvalidSpec: names the task, the field, the value and what is accepted.
    """
    values: dict[str, Any] = {}
    for name, value in options.items():
        if name not in FIELDS:
            raise unknown_option(task, name, value, FIELDS)
        if value is not None:
            values[name] = _field(task, name, value)
    return ContainerSpec(**values)


def _field(task: str, name: str, value: object) -> Any:
    try:
        parsed = PARSERS[name](value) if name in PARSERS else value
        spec = msgspec.convert({name: parsed}, ContainerSpec)
    except (ValueError, msgspec.ValidationError) as error:
        accepted = ACCEPTED.get(name) or (str(error) if name in PARSERS else f"a value like {_expects(error)}")
        raise InvalidSpec(f"task {task}: {name}={value!r} is not accepted; {name} takes {accepted}") from None
    return getattr(spec, name)


def _expects(error: Exception) -> str:
    # msgspec writes "Expected `str`, got `int` - at `$.image`": the type is all that the reader needs.
    match = re.search(r"Expected `([^`]*)`", str(error))
    return match[1] if match else str(error)


def unknown_option(task: str, name: str, value: object, known: Iterable[str]) -> InvalidSpec:
    """The error for an option that nobody knows, with the nearest ones that exist."""
    near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else f"sandbox options are {', '.join(sorted(FIELDS))}"
    return InvalidSpec(f"task {task}: unknown option {name}={value!r}; {hint}")


def merge(base: ContainerSpec, over: ContainerSpec) -> ContainerSpec:
    """`base` with every field that `over` says. `env`, `labels` and `annotations` are merged key by key."""
    said = {name: value for name in FIELDS if (value := getattr(over, name)) is not None}
    for name in ("env", "labels", "annotations"):
        if name in said and getattr(base, name):
            said[name] = {**getattr(base, name), **said[name]}
    return msgspec.structs.replace(base, **said) if said else base


def to_header(spec: ContainerSpec) -> dict[str, Any]:
    """`spec` as plain JSON values, without what it does not say: what a message header carries."""
    return msgspec.to_builtins(spec)  # type: ignore[no-any-return]


def from_header(task: str, header: object) -> ContainerSpec:
    """The inverse of `to_header`. A header is another process's word, so it is checked as the user's is.

    Raises:
        InvalidSpec: as `parse`.
    """
    if not isinstance(header, Mapping):
        raise InvalidSpec(f"task {task}: the cellwork header holds {header!r}; a mapping of options is expected")
    return parse(task, header)


def innermost(stamp: Any) -> Any:
    """The value of a stamp: Celery merges those of nested canvases into lists, the innermost first."""
    return stamp[0] if isinstance(stamp, list) and stamp else stamp
