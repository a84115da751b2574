"""A worker that is started before its Redis waits for it, as Celery's own workers do."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from celery.worker import state
from kombu.utils.functional import retry_over_time
from redis import AuthenticationError
from redis import ConnectionError as NotConnected
from redis import TimeoutError as TimedOut

logger = logging.getLogger("cellwork.worker")

_Answer = TypeVar("_Answer")

#: Seconds until the second try, more for each further one, and at most: kombu's own.
_FIRST, _MORE, _MOST = 2.0, 2.0, 30.0


def connected(app: Any, ask: Callable[[], _Answer]) -> _Answer:
    """The answer to `ask`, as soon as Redis gives one.

    Waits as long as Celery does for its broker: ``broker_connection_retry_on_startup`` (where that is not set:
    ``broker_connection_retry``, on) and ``broker_connection_max_retries`` (100; 0 or None: for ever).

    Raises:
        redis.ConnectionError, redis.TimeoutError: it gave none in all that time; at once where it refuses the password.
        celery.exceptions.WorkerShutdown, WorkerTerminate: the worker was asked to end.
    """

    def again(error: BaseException, intervals: Any, retries: int) -> float:
        if isinstance(error, AuthenticationError):
            raise error
        pause = float(next(intervals))
        logger.error("no result backend answers: %s. Trying again in %.0f seconds", error, pause)
        return pause

    waits = app.conf.broker_connection_retry_on_startup
    if not (app.conf.broker_connection_retry if waits is None else waits):
        return ask()
    answer: _Answer = retry_over_time(
        ask,
        (NotConnected, TimedOut),
        errback=again,  # type: ignore[arg-type] # kombu's annotation lacks its third argument
        max_retries=app.conf.broker_connection_max_retries or None,
        interval_start=_FIRST,
        interval_step=_MORE,
        interval_max=_MOST,
        callback=state.maybe_shutdown,
    )
    return answer
