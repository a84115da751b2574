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
    #: Goes to standard input, which is then closed. None: no input.
    payload: bytes | None
    #: On the sandbox, so that it can be listed, adopted and swept.
    labels: dict[str, str]
    #: Its executor does not remove it at its end: `discard` does, once the outcome is stored, so that a worker which
    #: dies in between leaves it to the next.
    keep: bool = False
    #: Its executor calls this just before the body can begin; it raises where the task is not this worker's any more.
    confirm: Callable[[], None] | None = None
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


def labels(installation: str, worker: str, task: str, task_id: str, spec: ContainerSpec) -> dict[str, str]:
    """The user's labels, and ours, which the user cannot replace."""
    return {
        **(spec.labels or {}),
        "cellwork.installation": installation,
        "cellwork.worker": worker,
        "cellwork.task": task,
        "cellwork.task-id": task_id,
    }


def runner_env(spec: ContainerSpec) -> dict[str, str]:
    """The environment of a sandbox with the runner in it."""
    return {**_RUNNER_ENV, **(spec.env or {})}


def pack(task: str, header: str, bundle: bytes, limit: int) -> bytes:
    """The payload, as docs/protocol.md lays it out.

    Args:
        task: its name, for the message.
        header: JSON, ASCII.
        bundle: the zipped code, or nothing.
        limit: most bytes.

    Raises:
        PayloadTooLarge: it is longer than `limit`.
    """
    head = header.encode("ascii")
    size = 4 + len(head) + len(bundle)
    if size > limit:
        raise PayloadTooLarge(
            f"task {task}: its arguments ({len(head)} bytes) and code ({len(bundle)} bytes) are larger than "
            f"payload_max_bytes={limit}; put large data where the task can fetch it, and pass its address"
        )
    return struct.pack(">QI", size, len(head)) + head + bundle


def header(
    *,
    nonce: str,
    request: Mapping[str, Any],
    target: Mapping[str, Any],
    args: Any,
    kwargs: Any,
    limits: tuple[float | None, float | None],
    result_max_bytes: int,
    code: str,
) -> dict[str, Any]:
    """The payload's header as plain values. `limits`: soft and hard time limit, seconds."""
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
        "code": code,
    }
