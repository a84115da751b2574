"""The engine's list of containers → sandboxes. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from cellwork_worker.executors.base import Sandbox

_JOINED = "container:"


def listed(containers: Iterable[Mapping[str, Any]]) -> list[Sandbox]:
    """`containers`: as the engine's "list containers" gives them, all of this installation."""
    found = [container for container in containers if container.get("Names")]
    used = {
        mode.removeprefix(_JOINED)
        for container in found
        if container.get("State") in ("running", "paused")
        and (mode := (container.get("HostConfig") or {}).get("NetworkMode") or "").startswith(_JOINED)
    }
    return [_sandbox(container, used) for container in found]


def _sandbox(container: Mapping[str, Any], used: set[str]) -> Sandbox:
    labels = container.get("Labels") or {}
    name = container["Names"][0].lstrip("/")
    return Sandbox(
        id=name,
        worker=labels.get("cellwork.worker", ""),
        broker=labels.get("cellwork.broker", ""),
        boot=labels.get("cellwork.boot", ""),
        task_id=labels.get("cellwork.task-id", ""),
        alias=labels.get("cellwork.warm", ""),
        created=float(container.get("Created") or 0),
        # Docker keeps the holder's name or its id there, whichever it was given.
        needed=name in used or container.get("Id") in used,
    )
