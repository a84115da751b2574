"""The sandboxes that run now, as the workers say."""

from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

from .errors import BrokerUnavailable

#: Seconds in which workers must answer.
ANSWER = 1.0


def ask(app: Celery, workers: list[str] | None = None, wait: float = 0.0) -> dict[str, list[dict[str, Any]]]:
    """What each worker says, by its name. One that does not answer is not in it.

    Args:
        app: the application.
        workers: only these; then it returns as soon as they have all answered. None: all.
        wait: seconds that each of them waits for its figures.

    Raises:
        BrokerUnavailable
    """
    try:
        replies = app.control.broadcast(
            "cellwork_ps",
            arguments={"wait": wait},
            destination=workers,
            limit=len(workers) if workers else None,
            reply=True,
            timeout=ANSWER,
        )
    except (OperationalError, OSError) as error:
        raise BrokerUnavailable(f"the broker does not answer: {error}") from error
    return {worker: found for reply in replies or [] for worker, found in reply.items() if isinstance(found, list)}


def rows(answers: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One for each sandbox, with its worker's name; the oldest first."""
    found = [{**row, "worker": worker} for worker, sandboxes in answers.items() for row in sandboxes]
    return sorted(found, key=lambda row: -row["seconds"])
