"""What this worker allows. Checked before anything starts; the task has no say in it. Pure."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

import msgspec

from cellwork.errors import PolicyViolation
from cellwork.quantity import format_bytes
from cellwork.spec import ContainerSpec


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[cellwork.policy]`` table of cellwork.toml."""

    #: Globs over image names as the task spells them.
    images: tuple[str, ...] = ("*",)
    #: Globs over network names. ``host`` and ``container:…`` are refused whatever stands here.
    networks: tuple[str, ...] = ("none", "bridge")
    #: Folders of the host whose content may be mounted. Named volumes need an entry of their own, as a glob.
    volumes: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    max_cpus: float | None = None
    #: Bytes.
    max_memory: int | None = None
    max_pids: int | None = 4096
    max_gpus: int = 0


def check(task: str, spec: ContainerSpec, policy: Policy) -> None:
    """Refuse a hardened spec that asks for more than `policy` gives.

    Raises:
        PolicyViolation: names the task, the field, the value and what is allowed.
    """
    _check_network(task, spec.network or "none", policy)
    _allow(task, "image", spec.image or "", policy.images)
    for volume in spec.volumes or ():
        _check_volume(task, volume, policy.volumes)
    for device in spec.devices or ():
        _allow(task, "devices", device.split(":")[0], policy.devices)
    if spec.runtime is not None:
        _allow(task, "runtime", spec.runtime, policy.runtimes)
    ceilings: tuple[tuple[str, Any, Any, Callable[[Any], str]], ...] = (
        ("cpus", spec.cpus, policy.max_cpus, str),
        ("memory", spec.memory, policy.max_memory, format_bytes),
        ("pids", spec.pids, policy.max_pids, str),
        ("gpus", spec.gpus, policy.max_gpus, str),
    )
    for field, value, most, form in ceilings:
        if value is not None and most is not None and value > most:
            raise PolicyViolation(f"task {task}: {field}={form(value)} is more than this worker allows ({form(most)})")


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


def _check_volume(task: str, volume: str, allowed: tuple[str, ...]) -> None:
    source = volume.split(":")[0]
    path = PurePosixPath(source)
    if ".." in path.parts or source.endswith(".sock") or source == "/":
        raise PolicyViolation(
            f"task {task}: volumes={volume!r} is never allowed (the root, a socket, or a path with ..)"
        )
    if not path.is_absolute():
        _allow(task, "volumes", source, allowed)
    elif not any(glob.startswith("/") and path.is_relative_to(glob) for glob in allowed):
        raise PolicyViolation(
            f"task {task}: volumes={volume!r} is not allowed on this worker; allowed folders: "
            f"{', '.join(allowed) or 'none'} ([cellwork.policy] in cellwork.toml)"
        )
