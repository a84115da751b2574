"""``cellwork.run``: the task behind ``cellwork run IMAGE -- …``. Every configured application has it.

It gives a producer nothing new: who may send tasks may send any task with any image that the worker's policy allows.
"""

from typing import TYPE_CHECKING, Any

from .command import command

if TYPE_CHECKING:
    from celery import Celery

NAME = "cellwork.run"


def declare(app: "Celery") -> None:
    """Give `app` the task; the call says the image."""
    command(app, image=None, name=NAME, shared=False)(argv)


def argv(*words: str) -> list[str]:
    """The command as it was sent."""
    return list(words)


def task(app: Any) -> Any:
    """The app's."""
    return app.tasks[NAME]
