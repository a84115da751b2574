"""The declaration of a task: its options are checked where they are written."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from celery.app.task import Task as CeleryTask

from . import spec as specs
from .errors import InvalidSpec
from .image import Image
from .spec import FIELDS, ContainerSpec

#: What ``@app.task(…)`` takes beside the attributes of a task class (Celery 5.7, ``app.base.Celery.task``).
_DECORATOR_OPTIONS = frozenset(
    {
        "name", "base", "bind", "shared", "filter", "lazy", "pydantic", "pydantic_strict", "pydantic_context",
        "pydantic_dump_kwargs", "autoretry_for", "dont_autoretry_for", "retry_kwargs", "retry_backoff",
        "retry_backoff_max", "retry_jitter", "max_retries", "cellwork_command",
        # Defaults of its calls (``celery.app.task.extract_exec_options``).
        "queue", "routing_key", "exchange", "immediate", "mandatory", "delivery_mode", "compression", "priority",
    }
)  # fmt: skip


class Task(CeleryTask):  # type: ignore[type-arg]
    """A Celery task that runs in a sandbox. Options as class attributes work too: ``image = "…"``."""

    #: Of the worker: its events also tell of the sandbox.
    Request = "cellwork_worker.request:Request"
    #: What the task asks for.
    cellwork_spec: ContainerSpec = ContainerSpec()
    #: What its image is built from; None: the spec names one that is made elsewhere.
    cellwork_image: Image | None = None
    #: True: the function returns the command to run; see `cellwork.command`.
    cellwork_command = False

    @classmethod
    def bind(cls, app: Any) -> Any:
        """Celery's hook for a task that becomes known to its app; also of ``shared_task`` and of task classes."""
        said = {name: value for name in FIELDS if (value := _attribute(cls, name)) is not None}
        if said:
            declared = specs.parse(str(cls.name or cls.__name__), said)
            # What ``@app.task(…)`` says of this one task wins over the attributes of its base class.
            own = "cellwork_spec" in vars(cls)
            both = (declared, cls.cellwork_spec) if own else (cls.cellwork_spec, declared)
            cls.cellwork_spec = specs.merge(*both)
            if isinstance(said.get("image"), Image) and cls.cellwork_spec.image == said["image"].tag:
                cls.cellwork_image = said["image"]
        return super().bind(app)


def sandboxed(base: Any) -> Any:
    """A class of the user's for tasks, as one of ours."""
    return base if issubclass(base, Task) else type(base.__name__, (Task, base), {"__module__": base.__module__})


def _attribute(cls: type, name: str) -> Any:
    """The attribute of a class of the user's: Celery's own and ours have none of these names."""
    value = getattr(cls, name, None)
    return None if callable(value) or isinstance(value, property) else value


def check_declaration(function: Callable[..., Any], name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Check a task's options and body; return the options for Celery, with the spec as one of them.

    Raises:
        InvalidSpec: an unknown option, a value that is not accepted, or a body that cannot travel.
    """
    base = options.get("base") or CeleryTask
    said, others = {}, {}
    for option, value in options.items():
        if option in FIELDS:
            said[option] = value
        elif option in _DECORATOR_OPTIONS or hasattr(base, option) or hasattr(CeleryTask, option):
            others[option] = value
        else:
            raise specs.unknown_option(name, option, value, FIELDS | _DECORATOR_OPTIONS | set(vars(CeleryTask)))
    spec = specs.parse(name, said)
    _check_limits(name, options)
    # Celery's own tasks (celery.chord …) are glue that runs in the worker.
    if spec.executor != "inline" and not name.startswith("celery."):
        _check_body(function, name)
    if isinstance(others.get("base"), type):
        others["base"] = sandboxed(others["base"])
    built = {"cellwork_image": said["image"]} if isinstance(said.get("image"), Image) else {}
    return {**others, **built, "cellwork_spec": spec}


def _check_limits(name: str, options: Mapping[str, Any]) -> None:
    for option in ("time_limit", "soft_time_limit"):
        value = options.get(option)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value <= 0):
            raise InvalidSpec(
                f"task {name}: {option}={value!r} is not accepted; it takes a number of seconds greater than 0"
            )
    soft, hard = options.get("soft_time_limit"), options.get("time_limit")
    if soft is not None and hard is not None and soft > hard:
        raise InvalidSpec(f"task {name}: soft_time_limit={soft} is longer than time_limit={hard}")


def _check_body(function: Callable[..., Any], name: str) -> None:
    plain = inspect.unwrap(function)
    qualname, module = getattr(plain, "__qualname__", ""), getattr(plain, "__module__", None)
    if "<lambda>" in qualname:
        problem = "is a lambda; write it as a function (def) at the top level of a module"
    elif "<locals>" in qualname:
        problem = f"is {qualname}, a function inside a function; move it to the top level of its module"
    elif module == "__main__":
        problem = "is in __main__; move it to a module of its own, such as tasks.py, and import that"
    else:
        return
    raise InvalidSpec(
        f'task {name}: its body {problem}: the sandbox imports it by name (or declare it executor="inline", to run '
        f"it in the worker itself)"
    )
