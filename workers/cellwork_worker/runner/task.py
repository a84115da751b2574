"""The running task as its body sees it: ``self`` of a bound task, and ``cellwork.current``."""

import time


class Retry(Exception):
    """Raised by ``retry``: Celery runs the task again."""

    def __init__(self, options, error):
        super().__init__("the task asks to be retried")
        self.options = options
        self.error = error


class MaxRetriesExceededError(Exception):
    """The worker raises the real one; here it only has a name."""


class Request:
    """Celery's request, as far as a sandbox may know it."""

    called_directly = False
    is_eager = False
    delivery_info = {}

    def __init__(self, task, args, kwargs):
        self.args, self.kwargs = args, kwargs
        for name in ("id", "retries", "root_id", "parent_id", "group", "hostname"):
            setattr(self, name, task.get(name))
        self.task = task.get("name")


class Running:
    """The one task of this sandbox."""

    MaxRetriesExceededError = MaxRetriesExceededError

    def __init__(self, header, args, kwargs, send_state):
        task = header["task"]
        self.request = Request(task, args, kwargs)
        self.id, self.name, self.retries = task["id"], task["name"], task["retries"]
        self.max_retries = task.get("max_retries")
        self._ends = time.time() + header["time_limit"] if header.get("time_limit") else None
        self._send_state = send_state

    @property
    def deadline(self):
        """When the sandbox is killed, as an aware datetime; None: never."""
        if self._ends is None:
            return None
        import datetime

        # Not datetime.UTC, which came with Python 3.11.
        return datetime.datetime.fromtimestamp(self._ends, datetime.timezone.utc)

    @property
    def log(self):
        """A logger with the task's name."""
        import logging

        return logging.getLogger(self.name)

    def update_state(self, task_id=None, state=None, meta=None, **kwargs):
        """Store a state and what `AsyncResult.info` shows with it. Celery's final states are not a task's to set."""
        if state in ("SUCCESS", "FAILURE", "REVOKED"):
            raise ValueError("state=%r is set by the worker when the task ends, not by the task" % (state,))
        if state is not None and not isinstance(state, str):
            raise TypeError("state=%r is not accepted; a string is" % (state,))
        self._send_state(state, meta)

    def retry(
        self, args=None, kwargs=None, exc=None, throw=True, eta=None, countdown=None, max_retries=None, **options
    ):
        """Leave the body, and have Celery run the task again, by its own rules. Always raises."""
        if not throw or options:
            what = "throw=False" if not throw else ", ".join(sorted(options))
            raise NotImplementedError(
                "retry(%s) is not there in a sandbox; it takes args, kwargs, exc, eta, countdown and max_retries" % what
            )
        given = {"args": args, "kwargs": kwargs, "eta": eta, "countdown": countdown, "max_retries": max_retries}
        raise Retry({name: value for name, value in given.items() if value is not None}, exc)


class Current:
    """``from cellwork import current``: whatever task runs, once it does."""

    running = None

    def __getattr__(self, name):
        if Current.running is None:
            raise RuntimeError("cellwork.current is only there while the task runs, not while its module is imported")
        return getattr(Current.running, name)

    def update_state(self, state=None, meta=None):
        """As the worker's own `cellwork.current` has it: without the id that Celery's method takes first."""
        self.__getattr__("update_state")(state=state, meta=meta)


current = Current()
