"""Storing an outcome while Redis does not answer, or is full: the slot waits, and says so.

Celery's trace gives up at once, or stores the storing's failure as the task's, and the message is acknowledged. Here
the trace is ended before it can do that, and run again; the body, whose outcome is known, is not.
"""

import logging
from collections.abc import Callable
from typing import Any

from celery import signals
from kombu.exceptions import OperationalError
from redis import exceptions

from cellwork_worker.job import Ended, Job

logger = logging.getLogger("cellwork.worker")

#: What passes when Redis answers again, or has room again.
_PASSING = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.OutOfMemoryError,
    exceptions.ReadOnlyError,
    OperationalError,
)

#: Seconds between two tries: first, and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0


class Unstored(BaseException):
    """Ends the trace. No `Exception`: Celery would store that, too."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


def watch() -> None:
    """From here on Celery's trace raises `Unstored` where it cannot store."""
    signals.task_internal_error.connect(_raise)


def until_stored(job: Job, wait: Callable[[float], bool]) -> Any:
    """Run the job's trace until it could store the outcome.

    Args:
        job: whose token this worker holds.
        wait: waits so many seconds, or until the job is to be ended: then gives True.

    Raises:
        Ended: the job was ended meanwhile; its message is delivered again, and its sandbox has the outcome still.
    """
    pause = _FIRST_PAUSE
    while True:
        try:
            return job.target(*job.args)
        except Unstored as unstored:
            logger.error(
                "%s: its outcome cannot be stored, and it keeps its slot until it is; trying again in %.1f s: %s",
                job.sandbox,
                pause,
                unstored.error,
            )
        if wait(pause):
            raise Ended
        job.entered = False
        pause = min(pause * 2, _LONGEST_PAUSE)


def _raise(sender: Any, exception: BaseException | None = None, **_: Any) -> None:
    if isinstance(exception, _PASSING):
        raise Unstored(exception)
