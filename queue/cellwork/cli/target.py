"""The application that a command is about."""

from typing import Any

import click
from celery import Celery

from . import application


def app_of(context: click.Context, name: str | None) -> Celery:
    """What ``-A`` says to the command, or to the ``celery`` command that it was called through.

    Raises:
        click.UsageError: neither says anything.
    """
    if name is not None:
        return application.load(name)
    outer: Any = context.find_root().obj
    if isinstance(app := getattr(outer, "app", None), Celery):
        return app
    raise click.UsageError("which application? Give -A module, as for celery -A")
