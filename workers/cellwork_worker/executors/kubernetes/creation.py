"""Making a task's pod, or finding the one that an earlier delivery has made."""

import threading
import time
from typing import NamedTuple

from cellwork.errors import EngineUnavailable
from cellwork_worker.executors.shell import Without
from cellwork_worker.launch import Launch

from . import manifest, status, template
from .api import Api
from .connection import Refused
from .objects import Pod
from .programs import Programs
from .removal import GRACE
from .watch import Watched

_EXISTS = 409

#: Seconds until a Secret is asked for again that a new pod cannot have yet: its name is the earlier pod's. Should it be
#: its own after all, made by a request that nobody answered, the pod starts.
_LEFT_OVER = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)

#: A pod of the name that is being deleted is waited for; seconds, and how often one that comes and goes is tried.
_DELETION_PATIENCE, _TRIES = 60.0, 3


class Made(NamedTuple):
    """Of one pod."""

    #: By an earlier delivery.
    adopted: bool
    #: A shell of its image's may be around its command.
    borrowed: bool


class Creator:
    """Of one executor's pods."""

    def __init__(self, api: Api, programs: Programs) -> None:
        self._api = api
        self._programs = programs
        self._without_shell = Without()

    def create(self, launch: Launch, namespace: str, watched: Watched) -> Made:
        """Have a pod with the task in it.

        Raises:
            Refused, EngineUnavailable, PayloadTooLarge, InvalidSpec, PolicyViolation
        """
        borrow = launch.spec.image not in self._without_shell
        wanted = manifest.pod(launch, borrow=borrow, images=self._programs.of(launch) if borrow else None)
        template.check(launch.task, wanted)
        data = manifest.packed(launch) if launch.payload is not None else None
        if data is None:
            launch.confirm()
        pod, adopted = _made(self._api, launch, namespace, watched, wanted)
        if data is not None and not status.started(pod):
            # The body cannot begin before its payload is there.
            launch.confirm()
            secret = manifest.secret(launch, data, pod.metadata.uid)
            _give(self._api, namespace, secret, watched, () if adopted else _LEFT_OVER)
        return Made(adopted, adopted or borrow)

    def replace(self, made: Made, launch: Launch, namespace: str, watched: Watched) -> bool:
        """Where its pod never ran for want of a shell to measure it with, make another that runs without.

        Raises:
            Refused, EngineUnavailable
        """
        image = launch.spec.image
        if not made.borrowed or not status.lacks_shell(launch, watched.pod):
            return False
        self._without_shell.add(image)
        self._api.delete_pod(namespace, launch.id, grace=GRACE)
        watched.anew()
        self.create(launch, namespace, watched)
        return True


def _made(api: Api, launch: Launch, namespace: str, watched: Watched, wanted: dict[str, object]) -> tuple[Pod, bool]:
    for _ in range(_TRIES):
        try:
            pod = api.create_pod(namespace, wanted)
        except Refused as refused:
            if refused.status != _EXISTS:
                raise
        else:
            watched.answered(pod)
            return pod, False
        found = api.pod(namespace, launch.id)
        if found is not None and found.metadata.deletion_timestamp is None:
            watched.answered(found)
            return found, True
        _wait_deleted(api, launch, namespace)
    raise EngineUnavailable(f"task {launch.task}: there is a pod {launch.id} that can be neither used nor replaced")


def _give(api: Api, namespace: str, secret: dict[str, object], watched: Watched, pauses: tuple[float, ...]) -> None:
    """Have the pod's Secret. `pauses`: one of its name may be another pod's, which the cluster is about to remove."""
    for pause in (*pauses, None):
        try:
            api.create_secret(namespace, secret)
        except Refused as refused:
            if refused.status != _EXISTS:
                raise
        else:
            return
        if pause is None or watched.wait(lambda: status.started(watched.pod), pause):
            return


def _wait_deleted(api: Api, launch: Launch, namespace: str) -> None:
    deadline = time.monotonic() + _DELETION_PATIENCE
    while api.pod(namespace, launch.id) is not None:
        if time.monotonic() > deadline:
            raise EngineUnavailable(
                f"task {launch.task}: an earlier pod {launch.id} is being deleted for more than "
                f"{_DELETION_PATIENCE:g} s; its node may be gone: kubectl delete pod {launch.id} --force"
            )
        threading.Event().wait(0.5)
