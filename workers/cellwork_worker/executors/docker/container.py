"""Launch → the body of the engine's "create a container" request. Pure.

Field names and units are those of the Docker Engine API, section "ContainerCreate".
"""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from cellwork.spec import ContainerSpec
from cellwork_worker.hardening import DROPPED_CAPABILITIES, SAFE, SECURITY_OPTIONS
from cellwork_worker.launch import Launch

#: Nanoseconds a second, which is also what one processor is in the API.
_NANO = 1_000_000_000


def container_config(
    launch: Launch,
    log_max_bytes: int,
    holder: str | None = None,
    declared: tuple[str, ...] = (),
    log_driver: str = "local",
    measured: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The request's body.

    Args:
        launch: what to run.
        log_max_bytes: of the sandbox's output that the engine keeps, so that a later delivery can read it.
        holder: the container whose network namespace it joins; None: it gets one of its own.
        declared: the volumes that its image declares.
        log_driver: the engine's, for its output.
        measured: a command with the shell around it that measures it; None: it has none.
    """
    spec = launch.spec
    config: dict[str, Any] = {
        "Image": spec.image,
        "Cmd": list(launch.argv),
        "Env": [f"{name}={value}" for name, value in launch.env.items()],
        "User": spec.user,
        "Labels": launch.labels,
        "StopSignal": spec.stop_signal,
        "AttachStdin": launch.payload is not None,
        "AttachStdout": True,
        "AttachStderr": True,
        # Without a payload it is /dev/null.
        "OpenStdin": launch.payload is not None,
        # The sandbox reads end of file when its worker dies before the payload was sent, and ends by itself.
        "StdinOnce": True,
        # An image's own health check would run commands beside the task, for as long as it runs.
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            **_host_config(launch, declared),
            "LogConfig": log_config(log_driver, log_max_bytes),
        },
    }
    if launch.payload is not None:
        # The whole command line is the runner's: an image's entry point must not stand between.
        config |= {"Entrypoint": list(launch.argv[:1]), "Cmd": list(launch.argv[1:])}
    elif measured is not None:
        config |= {"Entrypoint": list(measured[:1]), "Cmd": list(measured[1:])}
    elif spec.entrypoint is not None:
        config["Entrypoint"] = list(spec.entrypoint)
    if spec.workdir is not None:
        config["WorkingDir"] = spec.workdir
    if spec.hostname is not None:
        config["Hostname"] = spec.hostname
    if holder is not None:
        config["HostConfig"]["NetworkMode"] = f"container:{holder}"
    return config


def log_config(driver: str, max_bytes: int) -> dict[str, Any]:
    """Docker's `local` is three times cheaper for it than `json-file`, and as readable; Podman has no `local`."""
    options = {"max-size": str(max_bytes)} | ({"max-file": "1", "compress": "false"} if driver == "local" else {})
    return {"Type": driver, "Config": options}


def _host_config(launch: Launch, declared: tuple[str, ...]) -> dict[str, Any]:
    spec = launch.spec
    host: dict[str, Any] = {
        "NanoCpus": int((spec.cpus or 0) * _NANO),
        "Memory": spec.memory or 0,
        "MemorySwap": spec.memory_swap or 0,
        "PidsLimit": spec.pids,
        "ShmSize": spec.shm_size,
        "Ulimits": [_ulimit(name, limit) for name, limit in (spec.ulimits or {}).items()],
        "NetworkMode": spec.network,
        "ReadonlyRootfs": bool(spec.read_only),
        "Tmpfs": {path: f"rw,nosuid,nodev,size={size},mode=1777" for path, size in _tmpfs(spec, declared).items()},
        "CapDrop": list(DROPPED_CAPABILITIES),
        "SecurityOpt": [*SECURITY_OPTIONS, *launch.security_options],
        "IpcMode": "private",
        "Privileged": False,
    }
    if spec.volumes:
        host["Binds"] = list(spec.volumes)
    if spec.dns:
        host["Dns"] = list(spec.dns)
    if spec.extra_hosts:
        host["ExtraHosts"] = [f"{name}:{address}" for name, address in spec.extra_hosts.items()]
    if spec.devices:
        host["Devices"] = [_device(device) for device in spec.devices]
    if spec.gpus:
        host["DeviceRequests"] = [{"Driver": "nvidia", "Count": spec.gpus, "Capabilities": [["gpu"]]}]
    if spec.runtime is not None:
        host["Runtime"] = spec.runtime
    return host


def _tmpfs(spec: ContainerSpec, declared: tuple[str, ...]) -> dict[str, int]:
    """A volume of the image's own would be a folder of the host that has no limit: it is one in memory instead."""
    asked = dict(spec.tmpfs or {})
    if not spec.read_only:
        return asked
    mounted = {PurePosixPath(path) for path in (*asked, *(volume.split(":")[1] for volume in spec.volumes or ()))}
    size = (SAFE.tmpfs or {})["/tmp"]  # noqa: S108 - inside the sandbox
    return {**{path: size for path in declared if PurePosixPath(path) not in mounted}, **asked}


def _ulimit(name: str, limit: int | tuple[int, int]) -> dict[str, Any]:
    soft, hard = limit if isinstance(limit, tuple) else (limit, limit)
    return {"Name": name, "Soft": soft, "Hard": hard}


def _device(device: str) -> dict[str, str]:
    """``host[:container[:permissions]]``, as ``docker run --device``."""
    host, _, rest = device.partition(":")
    inside, _, permissions = rest.partition(":")
    return {"PathOnHost": host, "PathInContainer": inside or host, "CgroupPermissions": permissions or "rwm"}
