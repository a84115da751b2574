"""The pages: running sandboxes, a task's output, dead letters; and Flower's /metrics, guarded."""

import asyncio
import hmac
import json
import os
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, ClassVar

import redis
from flower.views import BaseHandler
from flower.views.monitor import Metrics as FlowerMetrics
from kombu.exceptions import OperationalError
from tornado import web
from tornado.iostream import StreamClosedError

from cellwork import running
from cellwork.broker import Broker
from cellwork.deadletter import DeadLetter, DeadLetters
from cellwork.errors import CellworkError
from cellwork.logs import LogReader

#: Browsers that follow output at once; each asks Redis twice a second.
_FOLLOWERS = 100

#: Seconds between two looks for output, where there was none.
_PAUSE = 0.5

#: Seconds that a worker waits for the figures of its sandboxes before it answers without.
_FIGURES = 0.3

#: Environment variable: who has this token may read /metrics without a login.
_TOKEN = "CELLWORK_METRICS_TOKEN"  # noqa: S105 - its name


class Page(BaseHandler):  # type: ignore[misc]
    """With what all of ours have in common."""

    def set_default_headers(self) -> None:
        """Whatever a task's name or output contains, no script runs but Flower's and ours."""
        super().set_default_headers()
        self.set_header(
            "Content-Security-Policy",
            "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
        )
        self.set_header("Cache-Control", "no-store")

    async def blocking(self, function: Any, *args: Any) -> Any:
        """Call what waits for Redis in one of Flower's threads."""
        return await asyncio.get_running_loop().run_in_executor(self.application.executor, function, *args)

    @property
    def broker(self) -> Broker:
        """One for all requests."""
        found: Broker | None = getattr(self.application, "cellwork_broker", None)
        if found is None:
            found = self.application.cellwork_broker = Broker(self.capp)
        return found


class SandboxesPage(Page):
    """What runs now; the browser asks for the rows."""

    @web.authenticated
    def get(self) -> None:
        """The page."""
        self.render("sandboxes.html")


class SandboxRows(Page):
    """Its rows, as JSON."""

    #: Of all browsers together.
    _asking: ClassVar["asyncio.Task[list[dict[str, Any]]] | None"] = None

    @web.authenticated
    async def get(self) -> None:
        """``{"rows": […]}``, or ``{"error": …}``."""
        try:
            self.write({"rows": await self._rows()})
        except CellworkError as error:
            self.set_status(HTTPStatus.SERVICE_UNAVAILABLE)
            self.write({"error": str(error)})

    async def _rows(self) -> list[dict[str, Any]]:
        # Many browsers ask the workers no more often than one does.
        if SandboxRows._asking is None or SandboxRows._asking.done():
            alive = [name for name, worker in self.application.events.state.workers.items() if worker.alive]
            SandboxRows._asking = asyncio.ensure_future(
                self.blocking(lambda: running.rows(running.ask(self.capp, alive or None, _FIGURES)))
            )
        return await asyncio.shield(SandboxRows._asking)


class LogsPage(Page):
    """What a task printed, followed live."""

    @web.authenticated
    def get(self, task_id: str) -> None:
        """The page, also of a task that is not known (yet)."""
        self.render("logs.html", task_id=task_id)


class LogEvents(Page):
    """The same as server-sent events: a line each, then ``over``."""

    _followers = 0

    def initialize(self) -> None:
        """Of one request."""
        self._closed = asyncio.Event()

    def on_connection_close(self) -> None:
        """The browser has left."""
        self._closed.set()

    @web.authenticated
    async def get(self, task_id: str) -> None:
        """Until the task's output has ended, or the browser leaves."""
        if LogEvents._followers >= _FOLLOWERS:
            raise web.HTTPError(HTTPStatus.SERVICE_UNAVAILABLE, f"{_FOLLOWERS} browsers follow output already")
        self.set_header("Content-Type", "text/event-stream")
        # nginx would hold the lines back.
        self.set_header("X-Accel-Buffering", "no")
        LogEvents._followers += 1
        try:
            await self._follow(LogReader(self.capp, task_id))
        except CellworkError as error:
            self._send("failed", str(error))
        except StreamClosedError:
            return
        finally:
            LogEvents._followers -= 1

    async def _follow(self, reader: LogReader) -> None:
        self.write(": follows\n\n")
        await self.flush()
        while not reader.over and not self._closed.is_set():
            for line in await self.blocking(reader.read):
                told = {"time": line.time.isoformat(), "stream": line.stream, "text": line.text, "try": line.attempt}
                self._send("line", told)
            await self.flush()
            if not reader.found and not reader.over:
                await self._pause()
        self._send("over", None)

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self._closed.wait(), _PAUSE)
        except TimeoutError:
            return

    def _send(self, event: str, data: object) -> None:
        # JSON has no line feeds, so one datum is one line, whatever the task printed.
        self.write(f"event: {event}\ndata: {json.dumps(data)}\n\n")


class DeadPage(Page):
    """Tasks that failed as `Poisoned`."""

    def check_xsrf_cookie(self) -> None:
        """Flower's check, and the token that its forms carry: also where its API would do without."""
        super().check_xsrf_cookie()
        web.RequestHandler.check_xsrf_cookie(self)

    @web.authenticated
    async def get(self) -> None:
        """The list, oldest first."""
        try:
            letters: list[DeadLetter] = await self.blocking(DeadLetters(self.broker).all)
        except redis.RedisError as error:
            raise web.HTTPError(HTTPStatus.SERVICE_UNAVAILABLE, f"the broker does not answer: {error}") from error
        options = self.application.options
        open_ = options.basic_auth or options.auth or self.unauthenticated_api
        self.render("dead.html", letters=letters, may=open_ and not options.read_only)

    @web.authenticated
    async def post(self) -> None:
        """``task_id`` is sent again (``do=requeue``) or forgotten (``do=drop``)."""
        options = self.application.options
        if options.read_only:
            raise web.HTTPError(HTTPStatus.FORBIDDEN, "Read only mode is enabled")
        if not (options.basic_auth or options.auth or self.unauthenticated_api):
            raise web.HTTPError(
                HTTPStatus.FORBIDDEN, "Flower has no login: set basic_auth, or FLOWER_UNAUTHENTICATED_API"
            )
        task_id = self.get_argument("task_id", required=True, escape=False)
        do = self.get_argument("do", required=True)
        if do not in ("requeue", "drop"):
            raise web.HTTPError(HTTPStatus.BAD_REQUEST, "do=requeue or do=drop is expected")
        try:
            found = await self.blocking(partial(_settle, self.capp, DeadLetters(self.broker), task_id, do))
        except (redis.RedisError, OperationalError) as error:
            raise web.HTTPError(HTTPStatus.SERVICE_UNAVAILABLE, f"the broker does not answer: {error}") from error
        if not found:
            raise web.HTTPError(HTTPStatus.NOT_FOUND, "no dead letter with this id; somebody was faster")
        self.redirect(self.reverse_url("cellwork-dead"), status=HTTPStatus.SEE_OTHER)


class Metrics(FlowerMetrics):  # type: ignore[misc]
    """Flower's, for those who may see Flower, or have the token."""

    async def get(self) -> None:
        """All metrics of this process, as Prometheus reads them."""
        if self._has_token() or self.current_user:
            await super().get()
        else:
            # No redirect to a login page, which would look like a success to who scrapes.
            raise web.HTTPError(HTTPStatus.UNAUTHORIZED)

    def _has_token(self) -> bool:
        token, (kind, _, given) = os.environ.get(_TOKEN), self.request.headers.get("Authorization", "").partition(" ")
        return bool(token) and kind == "Bearer" and hmac.compare_digest(str(token).encode(), given.encode())


def _settle(app: Any, letters: DeadLetters, task_id: str, do: str) -> bool:
    letter = letters.get(task_id)
    if letter is None:
        return False
    if do == "requeue":
        letters.requeue(app, letter)
    else:
        letters.drop(letter)
    return True


HANDLERS = [
    web.url(r"/sandboxes", SandboxesPage, name="cellwork-sandboxes"),
    web.url(r"/sandboxes/rows", SandboxRows, name="cellwork-sandbox-rows"),
    web.url(r"/logs/([^/]+)", LogsPage, name="cellwork-logs"),
    web.url(r"/logs/([^/]+)/events", LogEvents, name="cellwork-log-events"),
    web.url(r"/dead", DeadPage, name="cellwork-dead"),
    web.url(r"/metrics", Metrics),
    web.url(
        r"/cellwork/(.*)",
        web.StaticFileHandler,
        {"path": str(Path(__file__).parent / "static")},
        name="cellwork-static",
    ),
]
