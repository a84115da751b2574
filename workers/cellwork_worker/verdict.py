"""Exit and outcome → what Celery's trace sees: a value, or an exception."""

import builtins
import sys
from collections.abc import Callable, Iterable
from signal import Signals
from typing import Any

from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded, TimeLimitExceeded

from cellwork import outcome
from cellwork.errors import (
    CellworkError,
    CommandFailed,
    InvalidResult,
    NoOutcome,
    OutOfMemory,
    RemoteTaskError,
    ResultTooLarge,
    SandboxLost,
)
from cellwork.quantity import format_bytes
from cellwork_worker.bootstrap import NO_PAYLOAD, NO_TASK
from cellwork_worker.executors.base import Exit
from cellwork_worker.launch import Launch

#: What a container ends with that an engine ends in the moment between its start and that of its program.
_NO_PROGRAM = 2

#: Exceptions of Celery's that mean something to its trace, by the names that a body raises them under.
_CELERY: dict[str, type[Exception]] = {
    "celery.exceptions.Ignore": Ignore,
    "celery.exceptions.Reject": Reject,
    "celery.exceptions.SoftTimeLimitExceeded": SoftTimeLimitExceeded,
    "billiard.exceptions.SoftTimeLimitExceeded": SoftTimeLimitExceeded,
}


class RemoteTraceback(Exception):
    """The traceback as it was in the sandbox; the cause of the exception that the worker raises."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def lost(launch: Launch, exit_: Exit, tail: bytes) -> CellworkError | TimeLimitExceeded:
    """The error for a sandbox that ended without an outcome."""
    where = f"task {launch.task}: sandbox {launch.id} (image {launch.spec.image})"
    detail = f" ({exit_.detail})" if exit_.detail else ""
    if exit_.oom:
        return OutOfMemory(
            f"{where} was killed for memory at its limit of {format_bytes(launch.spec.memory or 0)}, all of which it "
            f"used; give it more: memory=…"
        )
    if exit_.late:
        # Not a loss: it would run into the same deadline again.
        return TimeLimitExceeded(f"{where} ran into the deadline of its sandbox{detail}")
    if exit_.killed or _stopped(launch, exit_):
        return SandboxLost(
            f"{where} was killed from outside{detail}, not by this worker: by somebody, or by a host that ran short of "
            f"memory itself; its events say more (docker events or kubectl get events, dmesg)"
        )
    if exit_.unseen and exit_.code == 0:
        return SandboxLost(f"{where} ended while the engine was away, and its outcome went with what it printed last")
    if _had_no_task(launch, exit_, tail):
        return SandboxLost(
            f"{where} got no task: the worker that had started it died, or the connection to its engine broke, before "
            f"that had arrived"
        )
    printed = f". It printed last:\n{_text(tail)}" if tail else ""
    return NoOutcome(
        f"{where} ended by itself with status {exit_.code}{detail} and gave no outcome: its process left "
        f"(os._exit, a crash of the interpreter, a signal of its own) before the body had returned{printed}"
    )


def _had_no_task(launch: Launch, exit_: Exit, tail: bytes) -> bool:
    """Whether no body can have run in it. An engine that ends loses what is printed meanwhile."""
    if launch.payload is None:
        return False
    silent = (exit_.adopted or exit_.unseen) and not tail
    return (silent and exit_.code in (NO_PAYLOAD, _NO_PROGRAM)) or (exit_.code == NO_PAYLOAD and tail.endswith(NO_TASK))


def _stopped(launch: Launch, exit_: Exit) -> bool:
    """Whether it was asked to end while no worker saw it: so does an engine that is stopped itself."""
    return (exit_.adopted or exit_.unseen) and exit_.code == 128 + Signals[launch.spec.stop_signal or "SIGTERM"]


def command_result(launch: Launch, exit_: Exit, stdout: bytes, tail: bytes, limit: int) -> object:
    """What a command task returns.

    Raises:
        CommandFailed, OutOfMemory, TimeLimitExceeded, SandboxLost, ResultTooLarge, InvalidResult.
    """
    where = f"task {launch.task}: sandbox {launch.id} (image {launch.spec.image})"
    if exit_.oom or exit_.late or exit_.killed or _stopped(launch, exit_):
        raise lost(launch, exit_, tail)
    if exit_.code != 0:
        printed = f"; it printed last:\n{_text(tail)}" if tail else " and printed nothing"
        raise CommandFailed(
            f"{where}: {launch.argv[0] if launch.argv else 'the command'} ended with status {exit_.code}{printed}"
        )
    if launch.spec.result == "none":
        return None
    if len(stdout) > limit:
        raise ResultTooLarge(
            f"{where} printed more than result_max_bytes={limit}; write large output to a volume or a store, "
            f'or say result="none"'
        )
    try:
        return outcome.loads(stdout, extra_types=False) if launch.spec.result == "json" else stdout.decode()
    except (UnicodeDecodeError, outcome.InvalidDocument) as error:
        raise InvalidResult(
            f"{where}: its standard output is not what result={launch.spec.result!r} takes: {error}"
        ) from None


def error(launch: Launch, ended: outcome.Invalid | outcome.TooLarge) -> CellworkError:
    """The error for a body whose value cannot be taken."""
    where = f"task {launch.task}: sandbox {launch.id}"
    if isinstance(ended, outcome.TooLarge):
        return ResultTooLarge(
            f"{where} returned {ended.size} bytes of JSON, more than result_max_bytes={ended.limit}; store large "
            f"results elsewhere and return their address"
        )
    return InvalidResult(f"{where} returned what JSON cannot carry: {ended.detail}")


def short_of_memory(launch: Launch, failure: outcome.Failure, usage: object) -> OutOfMemory | None:
    """The error for a body that raised because the kernel had killed a process that it had started; None: it had not.

    Args:
        failure: what it raised.
        usage: what its runner says that it used.
    """
    if not isinstance(usage, dict) or not isinstance(kills := usage.get("oom_kills"), int) or kills < 1:
        return None
    peak = usage.get("peak_memory_bytes")
    used = f" (it used {format_bytes(peak)} at most)" if isinstance(peak, int) and 0 <= peak < 2**63 else ""
    error = OutOfMemory(
        f"task {launch.task}: a process in sandbox {launch.id} (image {launch.spec.image}) was killed for memory at "
        f"the limit of {format_bytes(launch.spec.memory or 0)}{used}, and the body raised {failure.type}: "
        f"{failure.text:.1000}. Give it more: memory=…"
    )
    error.__cause__ = RemoteTraceback(failure.traceback)
    return error


def rebuild(failure: outcome.Failure, owns: Callable[[str], bool], named: Iterable[type]) -> Exception:
    """The exception that the body raised, or `RemoteTaskError` where its class may not be rebuilt here.

    Args:
        failure: what the sandbox says.
        owns: whether a module of that name is the task's own.
        named: exception classes that the task's options name (autoretry_for, throws).
    """
    exception = _build(failure, owns, tuple(named))
    if exception is None:
        text = f"{failure.type}: {failure.text}"
        exception = RemoteTaskError(text, failure.type, failure.args, failure.traceback)
    exception.__cause__ = RemoteTraceback(failure.traceback or f"{failure.type}: {failure.text}")
    return exception


def _build(failure: outcome.Failure, owns: Callable[[str], bool], named: tuple[type, ...]) -> Exception | None:
    if (known := _CELERY.get(failure.type)) is not None:
        return known(*failure.args) if known is not Reject else Reject(failure.text, requeue=False)
    for kind in named:
        if f"{kind.__module__}.{kind.__qualname__}" == failure.type and _is_safe(kind):
            return _bare(kind, failure.args)
    found = _find(failure.type, owns)
    return _bare(found, failure.args) if found is not None else None


def _find(dotted: str, owns: Callable[[str], bool]) -> type[Exception] | None:
    """The class of that name in an already imported module; looked up, never imported or evaluated."""
    parts = dotted.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:cut])
        module = sys.modules.get(name)
        if module is None or (module is not builtins and not owns(name)):
            continue
        found: Any = module
        for part in parts[cut:]:
            # vars(), not getattr(): a lookup must not run a property or a module's __getattr__.
            found = vars(found).get(part) if isinstance(found, type) or found is module else None
        return found if _is_safe(found) else None
    return None


def _is_safe(kind: object) -> bool:
    # MemoryError ends Celery's worker, and what is no Exception ends a thread.
    return isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, MemoryError)


def _bare(kind: type[Exception], args: list[Any]) -> Exception | None:
    """An instance with these arguments. The initializer of a class of the task's own is not run on hostile data."""
    try:
        if kind.__module__ == "builtins":
            return kind(*args)
        made = kind.__new__(kind, *args)
        made.args = tuple(args)
        str(made)
    except Exception:  # noqa: BLE001 - its constructor is arbitrary code; whatever it raises, the class is not usable
        return None
    return made


def _text(tail: bytes) -> str:
    return tail.decode("utf-8", "backslashreplace")
