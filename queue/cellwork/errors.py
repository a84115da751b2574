"""Every way in which a task can fail that is not its own exception.

Each class has a ``kind`` (a slug for metrics and Flower). Its message names the task, the sandbox where there
is one, and what to do. All of them take one message, so that Celery's JSON result backend can store an error
on one machine and raise the same class on another.
"""

import re
from typing import ClassVar


class CellworkError(Exception):
    """Base of all errors that cellwork raises by itself."""

    kind: ClassVar[str] = "error"

    #: True where a failure is the infrastructure's: it is tried again on a budget of its own
    #: (``infra_retries``), and the task's ``max_retries`` are not touched.
    infrastructure: ClassVar[bool] = False


class InvalidSpec(CellworkError, ValueError):
    """An option that cellwork does not know, or a value that it does not accept. Nothing was enqueued."""

    kind = "invalid-spec"


class InvalidSetting(CellworkError, ValueError):
    """A setting that cellwork does not know, or a value that it does not accept."""

    kind = "invalid-setting"


class InvalidArgument(CellworkError, TypeError):
    """An argument of the task that JSON cannot carry. Nothing was enqueued."""

    kind = "invalid-argument"


class PolicyViolation(CellworkError):
    """The worker's policy refuses what the task asks for. Nothing was started."""

    kind = "policy-violation"


class CommandFailed(CellworkError):
    """A command task ended with a status other than 0. Carries the tail of its log."""

    kind = "command-failed"

    @property
    def status(self) -> int:
        """The exit status that the message says; 1 where it says none."""
        found = re.search(r" ended with status (\d+)(?:; it printed last:| and printed nothing)", str(self))
        return int(found[1]) if found else 1


class OutOfMemory(CellworkError):
    """The kernel or the kubelet killed the sandbox for memory."""

    kind = "out-of-memory"


class HostTooSmall(CellworkError):
    """The task asks for more memory or processors than the worker's host has for sandboxes."""

    kind = "host-too-small"


class SandboxLost(CellworkError):
    """The sandbox was ended from outside before it gave an outcome."""

    kind = "sandbox-lost"
    infrastructure = True


class NoOutcome(SandboxLost):
    """The sandbox ended by itself and gave no outcome (``os._exit``, a crash of the interpreter).

    The body did this, so running it again would do it again: not an infrastructure failure.
    """

    kind = "no-outcome"
    infrastructure = False


class NotAdoptable(SandboxLost):
    """The sandbox runs for an earlier delivery of the same task, and its executor cannot adopt it.

    A new one beside it would run the body twice: not tried again.
    """

    kind = "not-adoptable"
    infrastructure = False


class EngineUnavailable(CellworkError):
    """The Docker engine, or the cluster's API server, does not answer."""

    kind = "engine-unavailable"
    infrastructure = True


class StartTimeout(CellworkError):
    """The sandbox was not running within ``start_timeout`` seconds."""

    kind = "start-timeout"
    infrastructure = True


class ImageUnavailable(CellworkError):
    """The image is not on the engine and cannot be pulled."""

    kind = "image-unavailable"


class ImageBuildFailed(ImageUnavailable):
    """The declared image could not be built. Carries the failing step and the last lines that it printed."""

    kind = "image-build-failed"


class NoWorker(CellworkError):
    """No worker that lives takes from the queue that the task goes to. Nothing was enqueued."""

    kind = "no-worker"


class Poisoned(CellworkError):
    """The task was delivered more than ``max_deliveries`` times and never gave an outcome.

    Whatever runs it seems to die of it. It is in the dead-letter list: ``cellwork dead show ID``.
    """

    kind = "poisoned"


class BrokerUnavailable(CellworkError):
    """The broker's Redis does not answer, or has no room."""

    kind = "broker-unavailable"
    infrastructure = True


class PayloadTooLarge(CellworkError):
    """Arguments and code together are larger than ``payload_max_bytes``."""

    kind = "payload-too-large"


class ResultTooLarge(CellworkError):
    """The value that the body returned is larger than ``result_max_bytes`` as JSON."""

    kind = "result-too-large"


class InvalidResult(CellworkError):
    """The body returned a value that JSON cannot carry, or the sandbox sent something that is no outcome."""

    kind = "invalid-result"


class LogsUnavailable(CellworkError):
    """The output of tasks cannot be read: the result backend is not Redis, or does not answer."""

    kind = "logs-unavailable"


class RemoteTaskError(CellworkError):
    """The body raised an exception whose class the worker does not have, or may not rebuild.

    The message is ``module.Class: text`` followed by the traceback as it was in the sandbox.
    """

    kind = "task-error"
