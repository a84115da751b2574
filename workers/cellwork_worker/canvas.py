"""What comes after a task in its canvas, so that a worker's death in the midst of it neither loses nor doubles it.

Celery sends a task's callbacks before its outcome is stored, and counts a chord's member and sends the errbacks after
that. Where a worker dies in between, the next one does it all again. Celery gives the tasks of a chain or a chord their
ids when they are first sent; callbacks and errbacks get theirs here, so that a second copy is known as one.
"""

import uuid
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any

from celery import states

#: Seconds between two looks at a chord whose body another worker had begun to send: at most.
_LONGEST_PAUSE = 2.0

#: Of names made from a task's id.
_NAMESPACE = uuid.UUID("6bd8f9f4-6f3c-4f5e-9a43-0a3a3f1f5d10")


def name_callbacks(request: Any) -> None:
    """Give the callbacks and errbacks of Celery's request ids that follow from the task's."""
    for kind in ("callbacks", "errbacks"):
        _name(getattr(request, kind, None) or (), f"{request.id}/{kind}")


def resume(backend: Any, request: Any, meta: MutableMapping[str, Any], wait: Callable[[float], bool]) -> bool:
    """Do what comes after an outcome that is stored already.

    Args:
        backend: Celery's, of results.
        request: the context of the task.
        meta: what is stored.
        wait: waits so many seconds, or until the job is to be ended: then gives True.

    Returns:
        False: the job was to be ended before that was done.
    """
    status, result = meta["status"], meta["result"]
    while True:
        if status in states.EXCEPTION_STATES:
            name_callbacks(request)
            backend.mark_as_failure(request.id, result, meta["traceback"], request, store_result=False, state=status)
        elif request.chord:
            backend.on_chord_part_return(request, status, result)
        pause = _claimed(backend, request)
        if pause is None:
            return True
        if wait(min(pause, _LONGEST_PAUSE)):
            return False


def _name(signatures: Iterable[Any], prefix: str) -> None:
    for number, signature in enumerate(signatures):
        if not isinstance(signature, MutableMapping):
            continue
        name = f"{prefix}/{number}"
        if signature.get("subtask_type") == "group":
            _name(signature.get("kwargs", {}).get("tasks") or (), name)
        elif signature.get("subtask_type") is None:
            signature.setdefault("options", {}).setdefault("task_id", str(uuid.uuid5(_NAMESPACE, name)))


def _claimed(backend: Any, request: Any) -> float | None:
    """Seconds for which a worker, which may have died, has its chord's body to send. None: nobody has."""
    client = getattr(backend, "client", None)
    if not request.chord or not request.group or client is None or not hasattr(client, "pttl"):
        return None
    key = backend.get_key_for_group(request.group, ".c")
    claim, milliseconds = client.get(key), client.pttl(key)
    # Celery's own word for a body that was sent.
    if claim is None or claim == b"done" or milliseconds < 0:
        return None
    return float(milliseconds) / 1000
