"""``from cellwork import current``: the running task. In a sandbox the runner provides it; here, for inline tasks."""

import logging
from datetime import datetime
from typing import Any, cast

from celery import current_task
from celery.utils.log import get_task_logger


class Current:
    """The task that runs in this thread; what it offers is the same in every sandbox."""

    @property
    def _task(self) -> Any:
        task = cast(Any, current_task)._get_current_object()
        if task is None or not task.request.id:
            raise RuntimeError("cellwork.current is only there while a task runs")
        return task

    @property
    def id(self) -> str:
        """Celery's id of the task."""
        return str(self._task.request.id)

    @property
    def name(self) -> str:
        """The task's name."""
        return str(self._task.name)

    @property
    def retries(self) -> int:
        """How often it was retried."""
        return int(self._task.request.retries or 0)

    @property
    def max_retries(self) -> int | None:
        """How often it may be; None: for ever."""
        value = self._task.max_retries
        return None if value is None else int(value)

    @property
    def deadline(self) -> datetime | None:
        """When the sandbox is killed, aware. None: never, which is so of every inline task."""
        return None

    @property
    def log(self) -> logging.Logger:
        """A logger with the task's name."""
        return get_task_logger(self.name)

    def update_state(self, state: str | None = None, meta: Any = None) -> None:
        """Store a state that `AsyncResult` shows; `meta` is its ``info``."""
        self._task.update_state(state=state, meta=meta)

    def retry(self, *args: Any, **kwargs: Any) -> Any:
        """As ``Task.retry``: raises."""
        raise self._task.retry(*args, **kwargs)


current = Current()
