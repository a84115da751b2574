"""Stand-ins for cellwork, and for celery where it is not installed, so that a task's module can be imported.

Decorators give the function back. What would need a broker says so when it is called.
"""

import importlib.machinery
import sys

from . import task as task_
from .imports import image_imports

#: Functions and task objects, by the name that Celery knows them under.
registry = {}

_NO_BROKER = (
    "%s: a sandbox has no broker, on purpose. Return a value, and say where it goes when the task is sent "
    '(chain, chord, link); glue that must send tasks itself is @app.task(executor="inline")'
)


def _declare(*args, **options):
    """``@task`` and ``@task(…)``: the function comes back, its options are noted on it."""

    def decorator(function):
        try:
            function.__cellwork__ = options
            for name in ("delay", "apply_async", "apply", "s", "si", "signature", "starmap", "chunks", "map"):
                setattr(function, name, _Refuses("%s.%s" % (getattr(function, "__name__", "task"), name)))
        except AttributeError:
            pass  # a builtin; it has no options that the runner needs
        if options.get("name"):
            registry[options["name"]] = function
        return function

    return decorator(args[0]) if len(args) == 1 and callable(args[0]) and not options else decorator


class _Refuses:
    """Can be named and passed around; not called."""

    def __init__(self, name):
        self.__name__ = name

    def __call__(self, *args, **kwargs):
        raise RuntimeError(_NO_BROKER % (self.__name__,))

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Refuses("%s.%s" % (self.__name__, name))


class _Anything:
    """What the module's top level may do with an object of Celery's and nobody needs here."""

    def __init__(self, *args, **kwargs):
        pass

    def __call__(self, *args, **kwargs):
        # As a decorator it gives the function back, in both forms.
        return args[0] if len(args) == 1 and not kwargs and callable(args[0]) else self

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything()

    def __getitem__(self, key):
        return _Anything()

    def __setitem__(self, key, value):
        pass

    def __iter__(self):
        return iter(())

    def __or__(self, other):
        return self

    __ror__ = __or__

    def __mro_entries__(self, bases):
        return (object,)


class Task:
    """Base of tasks written as classes, and of ``base=…``."""

    name = None
    MaxRetriesExceededError = task_.MaxRetriesExceededError

    def __getattr__(self, name):
        running = task_.Current.running
        if running is None or name.startswith("__"):
            raise AttributeError(name)
        return getattr(running, name)

    # Found in the instance's class before __getattr__ is asked, so they are handed on one by one.
    delay = apply_async = s = si = signature = _Refuses("task.delay")


class Celery(_Anything):
    """An application."""

    Task = Task

    def __init__(self, main=None, *args, **kwargs):
        self.main = main
        self.conf = _Anything()

    def task(self, *args, **options):
        return _declare(*args, **options)

    def register_task(self, task):
        instance = task() if isinstance(task, type) else task
        registry[getattr(instance, "name", None) or type(instance).__name__] = instance
        return instance

    def send_task(self, name, *args, **kwargs):
        raise RuntimeError(_NO_BROKER % ("send_task(%r)" % (name,),))


def _command(app, **options):
    return _declare(**options)


def _get_task_logger(name):
    import logging

    return logging.getLogger(name)


def _exception(name, base=Exception):
    return type(name, (base,), {"__module__": "celery.exceptions"})


SoftTimeLimitExceeded = _exception("SoftTimeLimitExceeded")

_EXCEPTIONS = {
    "SoftTimeLimitExceeded": SoftTimeLimitExceeded,
    "Retry": task_.Retry,
    "MaxRetriesExceededError": task_.MaxRetriesExceededError,
}
for _name in (
    "Ignore",
    "Reject",
    "TimeLimitExceeded",
    "TaskError",
    "CeleryError",
    "ImproperlyConfigured",
    "ChordError",
):
    _EXCEPTIONS[_name] = _exception(_name)

_CANVAS = {name: _Refuses(name) for name in ("chain", "group", "chord", "signature", "subtask", "chunks", "xmap")}

#: What modules have that tasks really use; anything else of these packages is an `_Anything`.
_MODULES = {
    "celery": dict(_CANVAS, Celery=Celery, Task=Task, shared_task=_declare, current_task=task_.current),
    "celery.app.task": {"Task": Task},
    "celery.canvas": _CANVAS,
    "celery.exceptions": _EXCEPTIONS,
    "celery.utils.log": {"get_task_logger": _get_task_logger, "get_logger": _get_task_logger},
    "cellwork": {
        "configure": lambda app, **settings: app,
        "command": _command,
        "current": task_.current,
        "image_imports": image_imports,
    },
}


def _missing(module):
    def get(name):
        if name.startswith("__"):
            raise AttributeError(name)
        if module == "cellwork.errors":
            return _exception(name)
        return _Anything()

    return get


class Finder:
    """Answers imports of some packages with stand-ins."""

    def __init__(self, *packages):
        self._packages = packages

    def find_spec(self, fullname, path=None, target=None):
        top = fullname.partition(".")[0]
        if top not in self._packages:
            return None
        # vars(), not hasattr(): a module's own __getattr__ may import, and would ask here again.
        if top in sys.modules and "__stand_in__" not in vars(sys.modules[top]):
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        module.__stand_in__ = True
        module.__dict__.update(_MODULES.get(module.__name__, {}))
        module.__getattr__ = _missing(module.__name__)


def install():
    """Answer imports of cellwork, and of celery where the image has none."""
    # In front: `cellwork.current` means this task here, even where the package is installed.
    sys.meta_path.insert(0, Finder("cellwork"))
    sys.meta_path.append(Finder("celery", "kombu"))
