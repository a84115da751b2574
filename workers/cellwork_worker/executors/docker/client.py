"""docker-py's client, whose short requests go straight to the engine's Unix socket.

On their way through requests and urllib3 they take more than a millisecond of the worker's processor time each, four
times what is needed; a cold task makes four of them, one that waits warm five. What is streamed, and engines that are
reached by other ways than a Unix socket, go docker-py's own way.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import docker
import requests
from docker.transport import UnixHTTPAdapter

from .line import Line


class Client(docker.APIClient):
    """Raises what docker-py's own raises. Safe to use from many threads."""

    #: None: all goes docker-py's own way, as while it connects.
    _line: Line | None = None

    def go_direct(self, most: int) -> None:
        """From here on, if it is connected by a Unix socket. `most`: connections that are kept open."""
        adapter = self.get_adapter(self.base_url)
        if isinstance(adapter, UnixHTTPAdapter):
            self._line = Line(adapter.socket_path, most)

    def request(self, method: str, url: str, **options: Any) -> requests.Response:  # type: ignore[override]
        """See `requests.Session.request`."""
        body, long = options.get("data") or b"", options.get("stream") or options.get("json") is not None
        if self._line is None or long or not isinstance(body, str | bytes):
            return super().request(method, url, **options)
        response = self._line.ask(
            method,
            self._target(url, options.get("params")),
            body.encode() if isinstance(body, str) else body,
            options.get("headers") or {},
            options.get("timeout"),
        )
        response.url = url
        return response

    def attach_socket(self, container: Any, params: Any = None, ws: bool = False) -> Any:
        """See docker-py. The socket is the caller's to close."""
        if self._line is None or ws:
            return super().attach_socket(container, params, ws)
        inherited: Any = self  # docker-py's types do not have these
        url = inherited._url("/containers/{0}/attach", container)
        attached = self._line.upgrade(self._target(url, params), self.timeout)
        if isinstance(attached, requests.Response):
            attached.url = url
            inherited._raise_for_status(attached)
            raise requests.ConnectionError(f"the engine does not attach: its answer has status {attached.status_code}")
        return attached

    def close(self) -> None:
        """Disconnect."""
        super().close()
        if self._line is not None:
            self._line.close()

    def _target(self, url: str, params: Mapping[str, Any] | None) -> str:
        path = url.removeprefix(self.base_url)
        said = {name: value for name, value in (params or {}).items() if value is not None}
        return f"{path}?{urlencode(said, doseq=True)}" if said else path
