"""Launches for an executor of containers, and what they print."""

import threading
import uuid

from cellwork.spec import ContainerSpec, parse
from cellwork_worker.executors.base import STARTED, STDOUT
from cellwork_worker.hardening import harden
from cellwork_worker.launch import Launch

BUSYBOX = "cellwork/busybox:base"


def launch(installation: str, *argv: str, name: str | None = None, worker: str = "one", **options: object) -> Launch:
    """A command as a task."""
    spec = parse("t", {"image": BUSYBOX, "memory": "64m", "pull": "never", **options})
    return Launch(
        id=name or f"cellwork-{uuid.uuid4().hex}-0",
        task="t",
        task_id="t",
        spec=harden("t", spec, ContainerSpec()),
        argv=argv,
        env={},
        payload=None,
        labels={"cellwork.installation": installation, "cellwork.worker": worker},
    )


class Output:
    """Collects what a sandbox prints."""

    def __init__(self) -> None:
        self.text = b""
        self.errors = b""
        self.started = threading.Event()

    def __call__(self, stream: int, chunk: bytes) -> bool:
        if stream == STARTED:
            self.started.set()
        elif stream == STDOUT:
            self.text += chunk
        else:
            self.errors += chunk
        return False
