"""Celery's request of a task, whose events also tell what is known of its sandbox (docs/monitoring.md)."""

import socket
from collections.abc import Callable, Mapping
from typing import Any

from celery.worker.request import Request as CeleryRequest

from cellwork.quantity import format_bytes
from cellwork.spec import ContainerSpec
from cellwork.usage import TRAFFIC, Run
from cellwork_worker import metering
from cellwork_worker.job import Job

_HOST = socket.gethostname()

#: Of `Run`, what an event tells under the same name.
_TOLD = (
    "executor", "image", "image_digest", "image_bytes", "sandbox", "host", "route", "reason", "start", "redelivered",
    "queue_seconds", "pull_seconds", "start_seconds", "run_seconds", "cpu_seconds", "peak_memory_bytes", "memory_bytes",
    "exit_status", *TRAFFIC,
)  # fmt: skip

_ENDS = frozenset({"task-succeeded", "task-failed", "task-retried", "task-revoked"})


class Request(CeleryRequest):
    """Selected by `cellwork.task.Task.Request`."""

    #: Gives its job, while the pool has one.
    cellwork_job: Callable[[], Job | None] = staticmethod(lambda: None)

    def send_event(self, type: str, **fields: Any) -> None:  # noqa: A002 - Celery's name
        """See Celery: `type` and `fields` of an event of this task."""
        job = self.cellwork_job()
        if job is not None and type == "task-started":
            fields = {**begun(job, self.task), **fields}
        elif job is not None and type in _ENDS:
            fields = {**over(job), **fields}
        super().send_event(type, **fields)


def begun(job: Job, task: Any) -> dict[str, Any]:
    """What can be told before its sandbox is there."""
    route, reason = metering.route(job.args[2])
    executor, image = _asked(job, getattr(task, "cellwork_spec", None) or ContainerSpec(), route)
    told = {
        "executor": executor,
        "image": image,
        "sandbox": job.sandbox,
        "host": _HOST,
        "route": route,
        "reason": reason,
        "queue_seconds": job.queue_seconds,
    }
    return {name: value for name, value in told.items() if value is not None}


def _asked(job: Job, declared: ContainerSpec, route: str | None) -> tuple[str | None, str | None]:
    """Executor and image, as far as call, task, route and settings say; what the supervisor makes of it comes later."""
    header = job.args[2].get("cellwork")
    called = header.get("spec") if isinstance(header, Mapping) else None
    image = called.get("image") if isinstance(called, Mapping) else None
    executor, settings = declared.executor or route or "docker", job.settings
    if settings is None:
        return executor, None
    image = image or declared.image or settings.defaults.image
    return settings.executor if executor == "docker" else executor, str(image) if image else None


def used(job: Job) -> dict[str, Any]:
    """What is known of its last sandbox."""
    return {name: value for name in _TOLD if job.runs and (value := getattr(job.runs[-1], name)) is not None}


def over(job: Job) -> dict[str, Any]:
    """What its last sandbox used, how many it had, and how it ended."""
    last: Run | None = job.runs[-1] if job.runs else None
    told = {
        **used(job),
        "outcome": job.failure or (last.outcome if last is not None else None),
        "sandboxes": len(job.runs) or None,
        "memory_tried": ", ".join(map(format_bytes, job.sizes)) if len(job.sizes) > 1 else None,
        "ooms": sum(run.outcome == "out-of-memory" for run in job.runs) or None,
    }
    return {name: value for name, value in told.items() if value is not None}
