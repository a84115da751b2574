"""Making a task's pod, or finding the one that an earlier delivery has made."""

import threading
import time

from cellwork.errors import EngineUnavailable
from cellwork_worker.launch import Launch

from . import manifest, status, template
from .api import Api
from .connection import Refused
from .objects import Pod
from .watch import Watched

_EXISTS = 409

#: A pod of the name that is being deleted is waited for; seconds, and how often one that comes and goes is tried.
_DELETION_PATIENCE, _TRIES = 60.0, 3


def create(api: Api, launch: Launch, namespace: str, watched: Watched) -> bool:
    """Have a pod with the task in it. True: an earlier delivery had made it.

    Raises:
        Refused, EngineUnavailable, PayloadTooLarge, InvalidSpec, PolicyViolation
    """
    wanted = manifest.pod(launch)
    template.check(launch.task, wanted)
    data = manifest.packed(launch) if launch.payload is not None else None
    if data is None:
        launch.confirm()
    pod, adopted = _made(api, launch, namespace, watched, wanted)
    if data is not None and not status.started(pod):
        # The body cannot begin before its payload is there.
        launch.confirm()
        try:
            api.create_secret(namespace, manifest.secret(launch, data, pod.metadata.uid))
        except Refused as refused:
            if refused.status != _EXISTS:
                raise
    return adopted


def _made(api: Api, launch: Launch, namespace: str, watched: Watched, wanted: dict[str, object]) -> tuple[Pod, bool]:
    for _ in range(_TRIES):
        try:
            pod = api.create_pod(namespace, wanted)
        except Refused as refused:
            if refused.status != _EXISTS:
                raise
        else:
            watched.see(pod)
            return pod, False
        found = api.pod(namespace, launch.id)
        if found is not None and found.metadata.deletion_timestamp is None:
            watched.see(found)
            return found, True
        _wait_deleted(api, launch, namespace)
    raise EngineUnavailable(f"task {launch.task}: there is a pod {launch.id} that can be neither used nor replaced")


def _wait_deleted(api: Api, launch: Launch, namespace: str) -> None:
    deadline = time.monotonic() + _DELETION_PATIENCE
    while api.pod(namespace, launch.id) is not None:
        if time.monotonic() > deadline:
            raise EngineUnavailable(
                f"task {launch.task}: an earlier pod {launch.id} is being deleted for more than "
                f"{_DELETION_PATIENCE:g} s; its node may be gone: kubectl delete pod {launch.id} --force"
            )
        threading.Event().wait(0.5)
