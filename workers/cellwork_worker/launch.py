"""Spec and task → Launch: everything an executor must know to run one task in one sandbox. Pure."""

import hashlib
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from cellwork.errors import PayloadTooLarge
from cellwork.spec import ContainerSpec

_UNSAFE = re.compile(r"[^a-zA-Z0-9-]")

#: A task id of ours, or its hash, then the counts of retries and starts: a plain id has no such end by itself.
_STARTED_AGAIN = re.compile(r"(cellwork-(?:[0-9a-f-]{36}|[0-9a-f]{40})-\d+)-\d+")

#: What every Python program wants to be told in a place where only /tmp can be written. What the user sets wins.
_RUNNER_ENV = {"HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"}  # noqa: S108 - inside the sandbox


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """One task about to run in one sandbox."""

    #: The sandbox's name: see `sandbox_name`.
    id: str
    task: str
    task_id: str
    #: Complete: hardened, with every default filled in.
    spec: ContainerSpec
    argv: tuple[str, ...]
    env: dict[str, str]
    #: Goes to standard input, which may stay open: it says itself where it ends. None: no input.
    payload: bytes | None
    #: So many bytes of the payload, at its start, do not depend on the task and may be sent ahead of need. 0: none.
    ahead: int = 0
    #: The same for sandboxes that are alike before they have a task: see `shape`. Empty: must be started for this task.
    shape: str = ""
    #: On the sandbox, so that it can be listed, adopted and swept.
    labels: dict[str, str]
    #: In Docker's spelling, beside the ones that every sandbox has.
    security_options: tuple[str, ...] = ()
    #: Seconds that the task may take, start and all; None: no limit. The worker sees to it, and its executor may, too.
    time_limit: float | None = None
    #: Its executor does not remove it at its end: `discard` does, once the outcome is stored, so that a worker which
    #: dies in between leaves it to the next.
    keep: bool = False
    #: An earlier delivery of this attempt may have a sandbox, which whatever worker has started.
    redelivered: bool = False
    #: Under which name an earlier delivery's sandbox of this attempt is, where that is not `id`. Empty: it is `id`.
    alias: str = ""
    #: Called with the name of a sandbox that was started ahead of need, before that is given the task. False: it could
    #: not be noted, so a second delivery would not find it, and it is not to be used.
    note: Callable[[str], bool] = lambda name: True
    #: Its executor calls this just before the body can begin; it raises where the task is not this worker's any more.
    confirm: Callable[[], None] = lambda: None
    #: Only for the inline executor: the body, ready to be called.
    body: Callable[[], object] | None = None


def sandbox_name(task_id: str, retries: int, start: int = 0) -> str:
    """The name of the sandbox of a task's attempt: the same on every worker, so a second delivery finds it.

    Args:
        task_id: Celery's id; any string.
        retries: Celery's count of retries, a new sandbox each.
        start: how often the infrastructure made us start this attempt anew.
    """
    slug = task_id
    if _UNSAFE.search(task_id) or not 0 < len(task_id) <= 40:
        slug = hashlib.sha256(task_id.encode()).hexdigest()[:40]
    return f"cellwork-{slug}-{retries}" + (f"-{start}" if start else "")


def attempt_of(sandbox: str) -> str:
    """The name of its attempt: `sandbox_name` without the count of starts."""
    match = _STARTED_AGAIN.fullmatch(sandbox)
    return match[1] if match else sandbox


def worker_labels(installation: str, worker: str, broker: str, boot: str) -> dict[str, str]:
    """Whose a sandbox is.

    Args:
        installation: the setting.
        worker: Celery's node name.
        broker: which Redis knows whether that worker lives.
        boot: names its process.
    """
    return {
        "cellwork.installation": installation,
        "cellwork.worker": worker,
        "cellwork.broker": broker,
        "cellwork.boot": boot,
    }


def labels(worker: Mapping[str, str], task: str, task_id: str, spec: ContainerSpec) -> dict[str, str]:
    """The user's labels, and ours, which the user cannot replace. `worker`: see `worker_labels`."""
    return {
        **(spec.labels or {}),
        **worker,
        "cellwork.task": task,
        "cellwork.task-id": task_id,
    }


def attempt_labels(sandbox: str, reason: str | None) -> dict[str, str]:
    """Which try of its task the sandbox of that name is, and why the router sent it where it is."""
    start = sandbox.removeprefix(attempt_of(sandbox))
    attempt = attempt_of(sandbox).rpartition("-")[2] + start
    return {"cellwork.attempt": attempt, **({"cellwork.route": reason} if reason is not None else {})}


def runner_env(spec: ContainerSpec) -> dict[str, str]:
    """The environment of a sandbox with the runner in it."""
    return {**_RUNNER_ENV, **(spec.env or {})}


def shape(spec: ContainerSpec, env: Mapping[str, str], code: str) -> str:
    """What two sandboxes have in common that differ in nothing but their task.

    Args:
        spec: hardened.
        env: of the sandbox.
        code: the digest of the code that is sent ahead.
    """
    return hashlib.sha256(msgspec.json.encode((spec, env, code))).hexdigest()


def without_task(launch: Launch) -> Launch:
    """What one of its shape is started with ahead of need: kept for long, so it holds nothing of the task's."""
    ahead = (launch.payload or b"")[: launch.ahead]
    return msgspec.structs.replace(launch, payload=ahead, note=lambda name: True, confirm=lambda: None)


def pack(header: str, data: bytes = b"") -> bytes:
    """One part of the payload, as docs/protocol.md lays it out. `header`: JSON, ASCII."""
    head = header.encode("ascii")
    return struct.pack(">QI", 4 + len(head) + len(data), len(head)) + head + data


def check_size(task: str, ahead: int, rest: int, limit: int) -> None:
    """Check the payload's two parts, in bytes.

    Raises:
        PayloadTooLarge: together they are longer than `limit`.
    """
    if ahead + rest > limit:
        raise PayloadTooLarge(
            f"task {task}: its arguments ({rest} bytes) and code ({ahead} bytes) are larger than "
            f"payload_max_bytes={limit}; put large data where the task can fetch it, and pass its address"
        )


def header(
    *,
    nonce: str,
    request: Mapping[str, Any],
    target: Mapping[str, Any],
    args: Any,
    kwargs: Any,
    limits: tuple[float | None, float | None],
    result_max_bytes: int,
    secrets: Mapping[str, str],
    traceparent: str | None = None,
) -> dict[str, Any]:
    """The header of the task's part as plain values.

    Args:
        limits: soft and hard time limit, seconds.
        secrets: by environment variable.
        traceparent: of the trace that the task is part of.
    """
    soft, hard = limits
    return {
        "nonce": nonce,
        "task": dict(request),
        "target": dict(target),
        "args": list(args),
        "kwargs": dict(kwargs),
        "soft_time_limit": soft,
        "time_limit": hard,
        "result_max_bytes": result_max_bytes,
        "secrets": dict(secrets),
        "traceparent": traceparent,
    }
