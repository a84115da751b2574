"""What this worker allows. Checked before anything starts; the task has no say in it."""

import json
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import msgspec

from cellwork import adhoc
from cellwork.errors import InvalidSetting, PolicyViolation
from cellwork.image import Image
from cellwork.quantity import format_bytes, parse_bytes
from cellwork.spec import ContainerSpec


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[cellwork.policy]`` table of cellwork.toml."""

    #: Globs over image names as the task spells them.
    images: tuple[str, ...] = ("*",)
    #: Images must be named by their digest, so that every run has the same bytes.
    digest_required: bool = False
    #: Whether this worker builds images that tasks declare with `cellwork.Image`, when they are missing. A build runs
    #: the steps of the app's own code, with network. ``deny``: they are built elsewhere (``cellwork images build``).
    build: Literal["allow", "deny"] = "allow"
    #: Seconds that a build may take.
    build_timeout: float = 1800.0
    #: Whether this worker takes commands that no task of the app declares (``cellwork run IMAGE -- …``). A worker whose
    #: sandboxes isolate nothing never does.
    commands: Literal["allow", "deny"] = "allow"
    #: Globs over network names. ``host`` and ``container:…`` are refused whatever stands here.
    networks: tuple[str, ...] = ("none", "bridge")
    #: Folders of the host whose content may be mounted. Named volumes need an entry of their own, as a glob.
    volumes: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    #: Name to JSON file, in Docker's format. A task that names none gets the engine's own profile.
    seccomp: dict[str, str] = {}
    #: Globs over names of profiles.
    apparmor: tuple[str, ...] = ()
    #: Globs over namespaces of pods, beside the worker's own; over service accounts; over priority classes.
    namespaces: tuple[str, ...] = ()
    service_accounts: tuple[str, ...] = ()
    priority_classes: tuple[str, ...] = ()
    #: Whether a task may bring a manifest that is merged under its pod's. What is not "restricted" is refused anyway.
    pod_templates: bool = False
    max_cpus: float | None = None
    #: Bytes, as all sizes here; a string with a unit in the file.
    max_memory: int | None = None
    max_shm_size: int | None = None
    #: Of one tmpfs.
    max_tmpfs: int | None = None
    max_pids: int | None = 4096
    max_gpus: int = 0
    #: Of memory and swap together.
    max_memory_swap: int | None = None
    #: Of a task's output, in Redis and on the engine's disk.
    max_log: int | None = 64 << 20
    #: By name. The kernel's table of open files is the host's, for all that run there.
    max_ulimits: dict[str, int] = msgspec.field(default_factory=lambda: {"nofile": 65536})
    #: Whether a task may say read_only=False: what it then writes is on the host's disk, with no limit.
    writable_root: bool = True


_SIZES = ("max_memory", "max_memory_swap", "max_shm_size", "max_tmpfs", "max_log")


def load(given: Mapping[str, Any]) -> Policy:
    """The policy that the settings have.

    Raises:
        InvalidSetting: names the field, the value and what is accepted.
    """
    values = dict(given)
    try:
        for name in _SIZES:
            if values.get(name) is not None:
                values[name] = parse_bytes(values[name])
        policy = msgspec.convert(values, Policy)
        for path in policy.seccomp.values():
            json.loads(Path(path).read_text())
    except msgspec.ValidationError as error:
        raise InvalidSetting(f"policy: {error}; its fields are {', '.join(Policy.__struct_fields__)}") from None
    except OSError as error:
        raise InvalidSetting(f"policy: a seccomp profile cannot be read: {error}") from None
    except json.JSONDecodeError as error:
        raise InvalidSetting(f"policy: seccomp profile {path} is not JSON: {error}") from None
    except ValueError as error:
        raise InvalidSetting(f"policy: {name}={values[name]!r} is not accepted; {error}") from None
    return policy


def describe(policy: Policy) -> dict[str, str]:
    """What it allows, and so what it refuses, in words."""

    def size(most: int | None) -> str:
        return "the engine's own" if most is None else format_bytes(most)

    def names(allowed: Iterable[str]) -> str:
        return ", ".join(allowed) or "none"

    return {
        "images": names(policy.images) + (", by digest only" if policy.digest_required else ""),
        "building": f"{policy.build}, at most {policy.build_timeout:g} s an image",
        "commands": f"{policy.commands}, with cellwork run IMAGE -- …",
        "networks": f"{names(policy.networks)}; never the host's or another container's",
        "volumes": f"{names(policy.volumes)}; never /, a socket or a path with ..",
        "devices": names(policy.devices),
        "runtimes": f"the engine's default, {names(policy.runtimes)}",
        "seccomp": f"the engine's default, {names(policy.seccomp)}; never unconfined",
        "apparmor": f"the engine's default, {names(policy.apparmor)}; never unconfined",
        "pods": f"namespaces: the worker's own, {names(policy.namespaces)}; service accounts: default, "
        f"{names(policy.service_accounts)}; priority classes: {names(policy.priority_classes)}; templates: "
        f"{'allowed' if policy.pod_templates else 'refused'}",
        "most": f"{policy.max_cpus or 'any number of'} cpus, {size(policy.max_memory)} memory, "
        f"{size(policy.max_shm_size)} shm_size, {size(policy.max_tmpfs)} a tmpfs, {policy.max_pids or 'any'} pids, "
        f"{policy.max_gpus} gpus, {size(policy.max_memory_swap)} memory_swap, {size(policy.max_log)} of output",
        "ulimits": ", ".join(f"{name} up to {most}" for name, most in policy.max_ulimits.items()) or "any",
        "disk": "tasks may write to it (read_only=False)" if policy.writable_root else "no task may write to it",
        "never": "privileged, capabilities, new privileges, the host's namespaces",
    }


def security_options(spec: ContainerSpec, policy: Policy) -> tuple[str, ...]:
    """What the profiles that a checked spec names are to an engine."""
    options = []
    if spec.seccomp is not None:
        # The engine wants the profile itself, not where it is.
        options.append(f"seccomp={json.dumps(json.loads(Path(policy.seccomp[spec.seccomp]).read_text()))}")
    if spec.apparmor is not None:
        options.append(f"apparmor={spec.apparmor}")
    return tuple(options)


def check(task: str, spec: ContainerSpec, policy: Policy) -> None:
    """Refuse a hardened spec that asks for more than `policy` gives.

    Raises:
        PolicyViolation: names the task, the field, the value and what is allowed.
    """
    if task == adhoc.NAME and policy.commands == "deny":
        raise PolicyViolation(
            f"task {task}: this worker takes no commands that its app does not declare: its policy says so (commands = "
            f'"deny" in [cellwork.policy]), or its executor isolates nothing. Declare one with cellwork.command'
        )
    _check_network(task, spec.network or "none", policy)
    _allow(task, "image", spec.image or "", policy.images)
    if policy.digest_required and "@sha256:" not in (spec.image or ""):
        raise PolicyViolation(
            f"task {task}: image={spec.image!r} is not allowed on this worker, which wants a digest: name@sha256:…"
        )
    for volume in spec.volumes or ():
        _check_volume(task, volume, policy.volumes)
    for device in spec.devices or ():
        _allow(task, "devices", device.split(":")[0], policy.devices)
    if spec.runtime is not None:
        _allow(task, "runtime", spec.runtime, policy.runtimes)
    if spec.seccomp is not None:
        _allow(task, "seccomp", spec.seccomp, tuple(policy.seccomp))
    if spec.apparmor is not None:
        # Whatever the globs say: it would switch the protection off.
        _allow(task, "apparmor", spec.apparmor, () if spec.apparmor == "unconfined" else policy.apparmor)
    _check_pod(task, spec, policy)
    _check_sizes(task, spec, policy)


def _check_sizes(task: str, spec: ContainerSpec, policy: Policy) -> None:
    if spec.read_only is False and not policy.writable_root:
        raise PolicyViolation(
            f"task {task}: read_only=False is not allowed on this worker (writable_root = false in [cellwork.policy]); "
            f"a folder in memory can be written: tmpfs={{path: size}}"
        )
    for name, limit in (spec.ulimits or {}).items():
        most = policy.max_ulimits.get(name)
        if most is not None and not all(0 <= one <= most for one in (limit if isinstance(limit, tuple) else (limit,))):
            raise PolicyViolation(f"task {task}: ulimits={name}: {limit} is more than this worker allows ({most})")
    ceilings: tuple[tuple[str, Any, Any, Callable[[Any], str]], ...] = (
        ("cpus", spec.cpus, policy.max_cpus, str),
        ("memory", spec.memory, policy.max_memory, format_bytes),
        ("memory_max", spec.memory_max, policy.max_memory, format_bytes),
        ("memory_swap", spec.memory_swap, policy.max_memory_swap, format_bytes),
        ("log_max", spec.log_max, policy.max_log, format_bytes),
        ("shm_size", spec.shm_size, policy.max_shm_size, format_bytes),
        ("tmpfs", max((spec.tmpfs or {}).values(), default=None), policy.max_tmpfs, format_bytes),
        ("pids", spec.pids, policy.max_pids, str),
        ("gpus", spec.gpus, policy.max_gpus, str),
    )
    for field, value, most, form in ceilings:
        if value is not None and most is not None and value > most:
            raise PolicyViolation(f"task {task}: {field}={form(value)} is more than this worker allows ({form(most)})")


def _check_pod(task: str, spec: ContainerSpec, policy: Policy) -> None:
    for field, globs in (
        ("namespace", policy.namespaces),
        ("service_account", policy.service_accounts),
        ("priority_class", policy.priority_classes),
    ):
        if (value := getattr(spec, field)) is not None:
            _allow(task, field, value, globs)
    if spec.pod_template is not None and not policy.pod_templates:
        raise PolicyViolation(
            f"task {task}: pod_template is not allowed on this worker (pod_templates = true in [cellwork.policy])"
        )


def check_build(task: str, image: Image, policy: Policy) -> None:
    """Refuse to build a declared image where `policy` does not allow it, or not on these bases.

    Raises:
        PolicyViolation: names the task, the image and what to do.
    """
    if policy.build == "deny":
        raise PolicyViolation(
            f"task {task}: image {image.tag} is not on this worker's engine, and this worker may not build "
            f'(build = "deny" in [cellwork.policy]). Build it where that is allowed: cellwork images build'
        )
    for base in image.bases:
        _allow(task, "image", base, policy.images)


def _allow(task: str, field: str, value: str, globs: tuple[str, ...]) -> None:
    if not any(fnmatchcase(value, glob) for glob in globs):
        allowed = ", ".join(globs) or "none"
        raise PolicyViolation(
            f"task {task}: {field}={value!r} is not allowed on this worker; allowed: {allowed} "
            f"([cellwork.policy] in cellwork.toml)"
        )


def _check_network(task: str, network: str, policy: Policy) -> None:
    if network in {"host", "default"} or ":" in network:
        raise PolicyViolation(
            f"task {task}: network={network!r} is never allowed; it would share the network of the host or of "
            f"another container. Use none, bridge or a network of your own"
        )
    _allow(task, "network", network, policy.networks)


def _within(path: PurePosixPath, folder: str) -> bool:
    """By its name, and where it leads: a task that may write there could have left a link. On another host's engine
    there is nothing to look at, and the name alone counts."""
    return path.is_relative_to(folder) and Path(path).resolve().is_relative_to(Path(folder).resolve())


def _check_volume(task: str, volume: str, allowed: tuple[str, ...]) -> None:
    source = volume.split(":")[0]
    path = PurePosixPath(source)
    if ".." in path.parts or source.endswith(".sock") or source == "/":
        raise PolicyViolation(
            f"task {task}: volumes={volume!r} is never allowed (the root, a socket, or a path with ..)"
        )
    if not path.is_absolute():
        _allow(task, "volumes", source, allowed)
    elif not any(glob.startswith("/") and _within(path, glob) for glob in allowed):
        raise PolicyViolation(
            f"task {task}: volumes={volume!r} is not allowed on this worker; allowed folders: "
            f"{', '.join(allowed) or 'none'} ([cellwork.policy] in cellwork.toml)"
        )
