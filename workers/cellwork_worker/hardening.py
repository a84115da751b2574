"""The safe defaults, in one place. Pure.

A task asks for more by name; the worker's policy (policy.py) decides. What is fixed for every sandbox and cannot be
asked for at all is here too.
"""

import msgspec

from cellwork.errors import InvalidSpec
from cellwork.spec import ContainerSpec, merge

_MIB = 1 << 20

#: What a task gets that asks for nothing.
SAFE = ContainerSpec(
    pull="missing",
    # "nobody" in every distribution; a name need not exist in the image, a number always works.
    user="65534:65534",
    cpus=1.0,
    memory=512 * _MIB,
    pids=256,
    shm_size=64 * _MIB,
    # Docker's own default is the daemon's, often a million: enough to exhaust the host's file table.
    ulimits={"nofile": (1024, 4096), "core": 0},
    network="none",
    read_only=True,
    tmpfs={"/tmp": 64 * _MIB},  # noqa: S108 - inside the sandbox
    stop_signal="SIGTERM",
    start_timeout=300.0,
    code="ship",
    python="python3",
    result="text",
)

#: No capability, whatever the image says; and no set-uid program gives one back.
DROPPED_CAPABILITIES = ("ALL",)
SECURITY_OPTIONS = ("no-new-privileges:true",)


def harden(task: str, spec: ContainerSpec, defaults: ContainerSpec) -> ContainerSpec:
    """`spec` with everything that it does not say filled in, from the installation's `defaults`, then from `SAFE`.

    Raises:
        InvalidSpec: no image is named anywhere, or `memory_max` is less than `memory`.
    """
    complete = merge(merge(SAFE, defaults), spec)
    if complete.image is None:
        raise InvalidSpec(
            f'task {task}: no image; write @app.task(image="python:3.12-slim"), or set defaults = {{image = …}} '
            f"in cellwork.toml"
        )
    if complete.memory_max is not None and complete.memory_max < (complete.memory or 0):
        raise InvalidSpec(
            f"task {task}: memory_max={complete.memory_max} is less than memory={complete.memory}; it is what a "
            f"sandbox that is killed for memory may get at most"
        )
    # The producer's and the queue's business, and so nothing in which two sandboxes differ.
    said: dict[str, object] = {"fair_key": None, "max_running": None, "learn": None}
    if complete.memory_swap is None:
        said["memory_swap"] = complete.memory
    if complete.read_only and "/tmp" not in (complete.tmpfs or {}):  # noqa: S108 - inside the sandbox
        # The runner unpacks the code there, and most programs expect to be able to write to it.
        said["tmpfs"] = {**(SAFE.tmpfs or {}), **(complete.tmpfs or {})}
    return msgspec.structs.replace(complete, **said)
