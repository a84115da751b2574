"""Finding the body, calling it, and telling how it ended."""

import importlib

from . import codec, standins
from . import task as task_

_TEXT_CHARS = 64 * 1024
_TRACEBACK_CHARS = 256 * 1024
_REPR_CHARS = 10 * 1024
_MAX_ARGS = 100


def find(target, name, running):
    """The function to call."""
    module = importlib.import_module(target["module"])
    found, owner = module, None
    for part in target["qualname"].split("."):
        found, owner = getattr(found, part), found
    # Where Celery is installed in the image, a task is found instead of its function.
    if hasattr(found, "push_request") and not isinstance(found, type):
        return _of_real_task(found, target["bind"], running)
    if not target["bind"]:
        return found
    base = owner if isinstance(owner, type) else getattr(found, "__cellwork__", {}).get("base")
    return _bound(found, base, name, running)


def _of_real_task(task, bind, running):
    function = getattr(task, "_orig_run", task.run)
    if not bind:
        return function
    task.push_request(**vars(running.request))
    _lend(task, running)
    return function


def _lend(task, running):
    """Give a task object the methods that need the supervisor."""
    for method in ("update_state", "retry"):
        setattr(task, method, getattr(running, method))


def _bound(function, base, name, running):
    if base is None:
        me = running
    else:
        registered = standins.registry.get(name)
        me = registered if isinstance(registered, base) else base()
        me.__dict__.update((key, value) for key, value in vars(running).items() if not key.startswith("_"))
        _lend(me, running)
    return lambda *args, **kwargs: function(me, *args, **kwargs)


def success(value, limit):
    """The outcome of a body that returned, as JSON text."""
    try:
        document = codec.encode(value)
    except codec.Invalid as error:
        return codec.encode({"status": "invalid-result", "detail": str(error)})
    except RecursionError:
        return codec.encode({"status": "invalid-result", "detail": "$ is nested too deep"})
    if len(document) > limit:
        return codec.encode({"status": "result-too-large", "size": len(document), "limit": limit})
    return '{"status": "success", "value": %s}' % document


def failure(error):
    """The outcome of a body that raised, as JSON text."""
    if isinstance(error, task_.Retry):
        return _retry(error)
    return codec.encode(_describe(error))


def _retry(asked):
    try:
        options = codec.encode(asked.options)
    except codec.Invalid as error:
        return codec.encode({"status": "invalid-result", "detail": "of retry(): %s" % error})
    described = codec.encode(_describe(asked.error) if isinstance(asked.error, BaseException) else None)
    return '{"status": "retry", "options": %s, "error": %s}' % (options, described)


def _describe(error):
    kind = type(error)
    return {
        "status": "error",
        "type": "%s.%s" % (_safe(lambda: str(kind.__module__)), _safe(lambda: str(kind.__qualname__))),
        "args": [_argument(value) for value in _safe(lambda: tuple(error.args)[:_MAX_ARGS], ())],
        "text": _safe(lambda: str(error))[:_TEXT_CHARS],
        "traceback": _traceback(error)[-_TRACEBACK_CHARS:],
    }


def _argument(value):
    try:
        if len(codec.encode(value)) <= _TEXT_CHARS:
            return value
    except (codec.Invalid, RecursionError):
        pass  # its text will do
    return _safe(lambda: repr(value))[:_REPR_CHARS]


def _safe(call, default="<unprintable>"):
    """What `call` gives, whatever the methods of a class of the user's do."""
    try:
        return call()
    except BaseException:
        return default


def _traceback(error):
    import traceback

    frames = error.__traceback__
    while frames is not None and "_cellwork_runner" in frames.tb_frame.f_code.co_filename:
        frames = frames.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, frames))
    except BaseException:
        lines = _safe(lambda: "".join(traceback.format_tb(frames)), "")
        return "Traceback (most recent call last):\n%s%s\n" % (lines, _safe(lambda: type(error).__name__))
