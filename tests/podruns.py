"""One run of an executor of pods, in a thread, and launches for it."""

import threading
import uuid

from waiting import wait_until

from cellwork.spec import ContainerSpec, parse
from cellwork_worker.executors.base import STARTED, Exit
from cellwork_worker.executors.kubernetes import KubernetesExecutor
from cellwork_worker.hardening import harden
from cellwork_worker.launch import Launch, labels, worker_labels

IMAGE = "cellwork/python:base"
INSTALLATION = "trouble"


def launch(script: str, payload: bytes | None = None, **options: object) -> Launch:
    """A script of the shell as a task."""
    spec = harden("t", parse("t", {"image": IMAGE, "pull": "never", "memory": "64m", **options}), ContainerSpec())
    task_id = str(uuid.uuid4())
    return Launch(
        id=f"cellwork-{task_id}-0",
        task="t",
        task_id=task_id,
        spec=spec,
        argv=("sh", "-c", script),
        env={},
        payload=payload,
        labels=labels(worker_labels(INSTALLATION, "one", "", ""), "t", task_id, spec),
    )


class Running:
    """One run in a thread."""

    def __init__(self, executor: KubernetesExecutor, one: Launch) -> None:
        self.launch = one
        self.output = b""
        self.started = threading.Event()
        self._ended: Exit | BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(executor,))
        self._thread.start()

    def _run(self, executor: KubernetesExecutor) -> None:
        try:
            self._ended = executor.run(self.launch, self._emit)
        except BaseException as error:  # noqa: BLE001 - raised by `exit`
            self._ended = error

    def _emit(self, stream: int, data: bytes) -> bool:
        if stream == STARTED:
            self.started.set()
        self.output += data
        return False

    def wait_output(self, text: bytes) -> None:
        wait_until(lambda: text in self.output or self._ended, timeout=30, what=f"{text!r}")
        assert text in self.output, self._ended

    def exit(self, timeout: float = 60) -> Exit:
        self._thread.join(timeout)
        assert not self._thread.is_alive(), f"{self.launch.id} has not ended"
        if isinstance(self._ended, BaseException):
            raise self._ended
        assert self._ended is not None
        return self._ended
