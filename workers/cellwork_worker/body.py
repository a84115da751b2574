"""A Celery task as the supervisor sees it, and the replacing of its body."""

import functools
import inspect
import sys
import sysconfig
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any

from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded

from cellwork import spec as specs
from cellwork.errors import CellworkError, CommandFailed, InvalidSpec, RemoteTaskError
from cellwork.outcome import RetryRequest
from cellwork.spec import ContainerSpec
from cellwork_worker import canvas, metering
from cellwork_worker.job import Final, Job

if TYPE_CHECKING:
    from cellwork_worker.supervisor import Supervisor

_slot = threading.local()

#: Folders of installed packages: what stands side by side there does not belong together.
_INSTALLED = tuple({Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib", "stdlib")})


class Body:
    """The innermost function of a task: what Celery's own wrappers (autoretry) call."""

    def __init__(self, task: Any, function: Callable[..., Any]) -> None:
        self.task = task
        self.call = function
        self.name = str(task.name)
        self.spec: ContainerSpec = getattr(task, "cellwork_spec", None) or ContainerSpec()
        self.is_command = bool(getattr(task, "cellwork_command", False))
        plain = inspect.unwrap(getattr(function, "__func__", function))
        self.module = str(plain.__module__)
        self.qualname = str(plain.__qualname__)
        #: The task itself is the first argument.
        self.bind = isinstance(function, MethodType)
        self.file: str | None = getattr(sys.modules.get(self.module), "__file__", None)
        self._top = self.module.partition(".")[0]
        self._root = _root(self.module, self.file)

    @property
    def request(self) -> Any:
        """Celery's request of the run in this thread."""
        return self.task.request

    @property
    def named_exceptions(self) -> list[type]:
        """Classes that the task's own options name, so that they mean something to Celery."""
        named = []
        for option in ("autoretry_for", "dont_autoretry_for", "throws"):
            value = getattr(self.task, option, None) or ()
            named += [value] if isinstance(value, type) else list(value)
        return named

    def owns(self, module: str) -> bool:
        """True for a module that belongs to the task's own code."""
        if module == self._top or module.startswith(self._top + "."):
            return True
        file = getattr(sys.modules.get(module), "__file__", None)
        return self._root is not None and file is not None and Path(file).resolve().is_relative_to(self._root)

    def overrides(self) -> ContainerSpec:
        """What this call overrides: canvas-wide stamps, then the message's own header.

        Raises:
            InvalidSpec: they are not what a producer of ours writes.
        """
        stamps = {
            name: specs.innermost(value) for name, value in (self.request.stamps or {}).items() if name in specs.FIELDS
        }
        over = specs.from_header(self.name, stamps)
        header = self._header().get("spec")
        if header is not None:
            over = specs.merge(over, specs.from_header(self.name, header))
        if over.code_root is not None:
            # A folder of this machine: whoever can send messages must not choose which of them is shipped.
            raise InvalidSpec(
                f"task {self.name}: code_root={over.code_root!r} came with the call; only the task's declaration "
                f"may say it"
            )
        asked = (over.secrets, over.secret_env) != (None, None)
        program = (over.image, over.python, over.entrypoint, over.pod_template) != (None,) * 4
        if asked or (program and (self.spec.secrets or self.spec.secret_env)):
            # Nor which secrets it gets, nor which program gets them.
            raise InvalidSpec(
                f"task {self.name}: secrets and secret_env, and the image, python, entrypoint and pod_template of a "
                f"task that has some, cannot come with the call; only the task's declaration may say them"
            )
        return over

    def routed(self) -> str | None:
        """The executor that the producer's router chose; None: it said nothing, or something unknown."""
        route = self._header().get("route")
        executor = route.get("executor") if isinstance(route, Mapping) else None
        return executor if executor in specs.EXECUTORS else None

    def retry(self, asked: RetryRequest, error: Exception | None) -> Exception:
        """Have Celery retry the task; return what its trace must see: Retry, or the error when retries are used up."""
        options = asked.options
        try:
            raise self.task.retry(
                args=options.args,
                kwargs=options.kwargs,
                exc=error,
                throw=True,
                eta=options.eta,
                countdown=options.countdown,
                max_retries=options.max_retries,
            )
        except Exception as raised:  # noqa: BLE001 - handed on, whatever it is
            return raised

    def _header(self) -> Mapping[str, Any]:
        header = self.request.get("cellwork") or (self.request.headers or {}).get("cellwork")
        return header if isinstance(header, Mapping) else {}


def _root(module: str, file: str | None) -> Path | None:
    """The folder that the task's top-level module or package is in, unless others' code is there too."""
    if file is None:
        return None
    path = Path(file).resolve()
    depth = module.count(".") + (path.name == "__init__.py")
    root = path.parents[depth] if depth < len(path.parents) else path.parent
    return None if any(root.is_relative_to(folder) for folder in _INSTALLED) else root


def replace(task: Any, supervisor: "Supervisor") -> None:
    """Make Celery's trace run `task` in a sandbox. Wrappers that Celery put around the body keep working."""
    wrapped = hasattr(task, "_orig_run")
    function = task._orig_run if wrapped else task.run
    body = Body(task, function)

    @functools.wraps(function)
    def sandboxed(*args: Any, **kwargs: Any) -> Any:
        job = current()
        if job is None or job.entered or task.request.id != job.id:
            return function(*args, **kwargs)  # called as a plain function, from some other body
        job.entered = True
        canvas.name_callbacks(task.request)
        if not job.given.done():
            _run_once(supervisor, body, job, args, kwargs)
        try:
            return job.given.result()
        except (CommandFailed, RemoteTaskError):
            raise
        except (CellworkError, SoftTimeLimitExceeded, TimeLimitExceeded) as error:
            raise Final(error) from error.__cause__
        finally:
            job.confirm(job)

    if wrapped:
        task._orig_run = sandboxed
    outer = task.run if wrapped else sandboxed

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return outer(*args, **kwargs)
        except Final as final:
            raise final.error from final.__cause__

    task.run = run


def _run_once(supervisor: "Supervisor", body: Body, job: Job, args: Any, kwargs: Any) -> None:
    try:
        job.given.set_result(supervisor.run(body, job, args, kwargs))
    except Exception as error:  # noqa: BLE001 - raised again by `result`
        job.failure = metering.kind(error)
        job.given.set_exception(error)


def current() -> Job | None:
    """The job that this thread runs."""
    job: Job | None = getattr(_slot, "job", None)
    return job


def enter(job: Job | None) -> None:
    """Say which job this thread runs."""
    _slot.job = job
