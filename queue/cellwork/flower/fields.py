"""What a task's page and the list of tasks show of its sandbox: the fields of its events, for people."""

from collections.abc import Callable
from typing import Any

from celery.events.state import Task
from flower.utils.template import format_duration

from cellwork.quantity import format_bytes


def _property(name: str, field: str, show: Callable[[Any], str]) -> property:
    """Shows an event's field under a name. Events come over the broker, so anything may be in them."""

    def read(task: Any) -> str | None:
        value = task.__dict__.get(field)
        try:
            # Under its name is what Flower, with --persistent, has kept of it.
            return task.__dict__.get(name) if value is None else show(value)
        except (TypeError, ValueError, OverflowError):
            return None

    return property(read)


def _bytes(value: Any) -> str:
    return format_bytes(int(value))


def _seconds(value: Any) -> str:
    return str(format_duration(value))


#: In their order on the page: name, the field of the event, how to show it.
_SHOWN: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("executor", "executor", str),
    ("image", "image", str),
    ("image_digest", "image_digest", str),
    ("image_size", "image_bytes", _bytes),
    ("sandbox", "sandbox", str),
    ("host", "host", str),
    ("route", "route", str),
    ("route_reason", "reason", str),
    ("outcome", "outcome", str),
    ("exit_status", "exit_status", str),
    ("start", "start", str),
    ("time_queued", "queue_seconds", _seconds),
    ("time_to_start", "start_seconds", _seconds),
    ("time_to_pull", "pull_seconds", _seconds),
    ("time_running", "run_seconds", _seconds),
    ("CPU_time", "cpu_seconds", _seconds),
    ("peak_memory", "peak_memory_bytes", _bytes),
    ("memory_limit", "memory_bytes", _bytes),
    ("network_received", "network_received_bytes", _bytes),
    ("network_sent", "network_sent_bytes", _bytes),
    ("disk_read", "disk_read_bytes", _bytes),
    ("disk_written", "disk_written_bytes", _bytes),
    ("sandboxes_used", "sandboxes", str),
    ("memory_tried", "memory_tried", str),
    ("killed_for_memory", "ooms", str),
)

#: Columns that the list of tasks can have besides Flower's own, with their titles (option ``tasks_columns``).
COLUMNS = {
    name: name.replace("_", " ").capitalize() if name.islower() else name.replace("_", " ") for name, _, _ in _SHOWN
}


def add() -> None:
    """Have Celery's picture of a task, which Flower shows, know them."""
    known: Any = Task
    for name, field, show in _SHOWN:
        # A property wins over what an event puts into the instance.
        setattr(known, name, _property(name, field, show))
    known._fields = (*known._fields, *(name for name, _, _ in _SHOWN))
