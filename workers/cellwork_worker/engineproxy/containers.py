"""Which containers may be created. Pure.

An allow-list: what a sandbox is made of (executors/docker/container.py, holders.py) passes, whatever else asks for
something is refused. What goes on to the engine is written anew from what was read here, so that both see the same.
"""

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

import msgspec

from .calls import Refused

#: In front of the name of another container, whose network namespace is joined.
_JOINED = "container:"


class Allowed(msgspec.Struct, frozen=True, kw_only=True):
    """What the cluster's owner allows beside the defaults."""

    #: The label that every container has to carry.
    installation: str
    #: Of the engine's networks, beside none and bridge.
    networks: frozenset[str] = frozenset()
    #: Folders of the host, and names of volumes, that may be mounted.
    volumes: tuple[str, ...] = ()


class LogConfig(msgspec.Struct, frozen=True, rename="pascal"):
    """A driver that keeps logs on the engine; others send them elsewhere."""

    type: str
    config: dict[str, str] | None = None


class HostConfig(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """Fields as in the API. One that is missing here must not be asked for: Privileged, PidMode, Devices, CapAdd …"""

    memory: int = 0
    memory_swap: int = 0
    nano_cpus: int = 0
    pids_limit: int = 0
    shm_size: int = 0
    ulimits: list[dict[str, Any]] = []
    network_mode: str = ""
    ipc_mode: str = ""
    readonly_rootfs: bool = False
    tmpfs: dict[str, str] | None = None
    cap_drop: list[str] = []
    security_opt: list[str] = []
    log_config: LogConfig | None = None
    binds: list[str] = []
    dns: list[str] = []
    extra_hosts: list[str] = []
    #: Names that the engine's own configuration gives a meaning.
    runtime: str = ""


class Create(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """The body of "ContainerCreate"."""

    image: str
    cmd: list[str] | None = None
    entrypoint: list[str] | None = None
    env: list[str] = []
    user: str = ""
    labels: dict[str, str] = {}
    stop_signal: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    healthcheck: dict[str, Any] | None = None
    working_dir: str = ""
    hostname: str = ""
    host_config: HostConfig = HostConfig()


def check(body: bytes, allowed: Allowed) -> tuple[bytes, str]:
    """What to send to the engine, and the container whose network it joins, which has to be one of ours; or "".

    Raises:
        Refused: it asks for something that no sandbox needs.
    """
    try:
        given = msgspec.json.decode(body)
        wanted = msgspec.convert(given, Create)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Refused(f"the container to create is not understood by the engine's proxy: {error}") from None
    _known("", given, Create.__struct_encode_fields__)
    _known("HostConfig.", given.get("HostConfig") or {}, HostConfig.__struct_encode_fields__)
    host = wanted.host_config
    _check_label(wanted, allowed)
    _check_walls(host)
    _check_limits(host)
    for bind in host.binds:
        _check_bind(bind, allowed.volumes)
    return msgspec.json.encode(wanted), _joined(host.network_mode, allowed)


def _known(where: str, given: dict[str, Any], names: Iterable[str]) -> None:
    """Fields that ask for nothing are left out of what goes on."""
    for name in sorted(given.keys() - set(names)):
        if given[name]:
            raise Refused(f"{where}{name}={given[name]!r} does not pass the engine's proxy; no sandbox needs it")


def _check_label(wanted: Create, allowed: Allowed) -> None:
    if wanted.labels.get("cellwork.installation") != allowed.installation:
        raise Refused(f"a container without the label cellwork.installation={allowed.installation} is not created")


def _check_walls(host: HostConfig) -> None:
    if host.ipc_mode not in ("", "private", "none"):
        raise Refused(f"HostConfig.IpcMode={host.ipc_mode!r}: private is expected")
    if host.cap_drop != ["ALL"]:
        raise Refused(f"HostConfig.CapDrop={host.cap_drop!r}: ['ALL'] is expected")
    if host.security_opt != ["no-new-privileges:true"]:
        raise Refused(f"HostConfig.SecurityOpt={host.security_opt!r}: ['no-new-privileges:true'] is expected")
    if host.log_config is not None and host.log_config.type not in ("local", "json-file", "none"):
        raise Refused(f"HostConfig.LogConfig.Type={host.log_config.type!r}: local, json-file or none is expected")


def _check_limits(host: HostConfig) -> None:
    for name, value in (("Memory", host.memory), ("PidsLimit", host.pids_limit)):
        if value <= 0:
            raise Refused(f"HostConfig.{name}={value}: a limit is expected")


def _check_bind(bind: str, volumes: tuple[str, ...]) -> None:
    source, _, rest = bind.partition(":")
    _, _, mode = rest.partition(":")
    path = PurePosixPath(source)
    if path.is_absolute():
        known = ".." not in path.parts and any(v.startswith("/") and path.is_relative_to(v) for v in volumes)
    else:
        known = source in volumes
    if not known or mode not in ("", "ro", "rw"):
        raise Refused(
            f"HostConfig.Binds={bind!r} does not pass the engine's proxy; its owner allows "
            f"{', '.join(volumes) or 'none'} (ENGINE_VOLUMES)"
        )


def _joined(mode: str, allowed: Allowed) -> str:
    if mode.startswith(_JOINED):
        return mode.removeprefix(_JOINED)
    if mode not in {"none", "bridge"} | allowed.networks:
        known = ", ".join(sorted({"none", "bridge"} | allowed.networks))
        raise Refused(f"HostConfig.NetworkMode={mode!r} does not pass the engine's proxy; allowed: {known}")
    return ""
