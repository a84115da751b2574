"""HTTP over a Unix socket, as far as an engine's API needs it (RFC 9112)."""

import socket
from collections import deque
from collections.abc import Mapping

import requests
from requests.structures import CaseInsensitiveDict

_READ_BYTES = 1 << 16

#: Of a response's status line and fields.
_MAX_HEAD_BYTES = 1 << 16

_END = b"\r\n\r\n"

#: Statuses: of what has no body; and of what is a stream from there on.
_EMPTY, _UPGRADED = (204, 304), (101, 200)


class Line:
    """Connections to one socket, each used by one request at a time."""

    def __init__(self, path: str, most: int) -> None:
        """`most`: connections that are kept open while nobody uses them."""
        self._path = path
        self._most = most
        self._idle: deque[socket.socket] = deque()

    def ask(
        self, method: str, target: str, body: bytes, headers: Mapping[str, str], timeout: float | None
    ) -> requests.Response:
        """One request, and its whole response.

        Raises:
            requests.ReadTimeout: none came within `timeout` seconds.
            requests.ConnectionError: the connection broke.
        """
        length = {"Content-Length": str(len(body))} if body or method == "POST" else {}
        _, response = self._exchange(_request(method, target, {**length, **headers}) + body, timeout)
        return response

    def upgrade(self, target: str, timeout: float | None) -> socket.socket | requests.Response:
        """The connection, from where the stream begins; the response, if the engine refuses.

        Raises:
            requests.ReadTimeout, requests.ConnectionError: see `ask`.
        """
        headers = {"Content-Length": "0", "Connection": "Upgrade", "Upgrade": "tcp"}
        upgraded, response = self._exchange(_request("POST", target, headers), timeout, upgrade=True)
        return upgraded or response

    def close(self) -> None:
        """Disconnect those that nobody uses."""
        while self._idle:
            self._idle.pop().close()

    def _exchange(
        self, request: bytes, timeout: float | None, *, upgrade: bool = False
    ) -> tuple[socket.socket | None, requests.Response]:
        """The connection, if it is upgraded, and the response."""
        connection = None
        try:
            connection = self._connection(timeout)
            connection.sendall(request)
            reading = _Reading(connection, exactly=upgrade)
            response = reading.head()
            if upgrade and response.status_code in _UPGRADED:
                return connection, response
            keep = reading.body(response)
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, TimeoutError):
                raise requests.ReadTimeout(f"no answer within {timeout} seconds") from error
            if isinstance(error, OSError | ValueError):
                raise requests.ConnectionError(error) from error
            raise
        if keep and len(self._idle) < self._most:
            self._idle.append(connection)
        else:
            connection.close()
        return None, response

    def _connection(self, timeout: float | None) -> socket.socket:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:
                break  # another thread was faster
            if _is_open(connection):
                connection.settimeout(timeout)
                return connection
            connection.close()
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(timeout)
            connection.connect(self._path)
        except BaseException:
            connection.close()
            raise
        return connection


def _is_open(connection: socket.socket) -> bool:
    """False where the other side has hung up meanwhile."""
    connection.setblocking(False)
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _request(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: docker", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


class _Reading:
    """Of one response."""

    def __init__(self, connection: socket.socket, *, exactly: bool) -> None:
        """`exactly`: what comes behind the head stays in the connection."""
        self._connection = connection
        self._exactly = exactly
        self._held = b""

    def head(self) -> requests.Response:
        """The response, without its body."""
        while (end := self._held.find(_END)) < 0:
            if len(self._held) > _MAX_HEAD_BYTES:
                raise ValueError("the engine's answer begins with no head")
            self._more()
        head, self._held = self._held[:end].decode("latin-1"), self._held[end + len(_END) :]
        status, *fields = head.split("\r\n")
        response = requests.Response()
        _, code, response.reason = (*status.split(" ", 2), "")[:3]
        response.status_code = int(code)
        response.encoding = "utf-8"
        pairs = (field.partition(":") for field in fields)
        response.headers = CaseInsensitiveDict((name.strip(), value.strip()) for name, _, value in pairs)
        return response

    def body(self, response: requests.Response) -> bool:
        """Read it into `response`. True where another request can follow on the connection."""
        headers = response.headers
        keep = headers.get("Connection", "").lower() != "close"
        if response.status_code in _EMPTY:
            response._content = b""
        elif headers.get("Transfer-Encoding", "").lower() == "chunked":
            response._content = self._chunks()
        elif "Content-Length" in headers:
            response._content = self._take(int(headers["Content-Length"]))
        else:
            response._content, keep = self._rest(), False
        return keep

    def _chunks(self) -> bytes:
        found = []
        while size := int(self._line().partition(b";")[0], 16):
            found.append(self._take(size))
            self._line()
        while self._line():
            pass  # a trailer
        return b"".join(found)

    def _line(self) -> bytes:
        while (end := self._held.find(b"\r\n")) < 0:
            self._more()
        line, self._held = self._held[:end], self._held[end + 2 :]
        return line

    def _take(self, size: int) -> bytes:
        pieces, left = [self._held[:size]], size - len(self._held)
        self._held = self._held[size:]
        while left > 0:
            pieces.append(self._receive(min(left, _READ_BYTES)))
            left -= len(pieces[-1])
        return b"".join(pieces)

    def _rest(self) -> bytes:
        pieces = [self._held]
        while pieces[-1] or len(pieces) == 1:
            pieces.append(self._connection.recv(_READ_BYTES))
        return b"".join(pieces)

    def _more(self) -> None:
        size = _READ_BYTES
        if self._exactly:
            seen = self._held + self._connection.recv(size, socket.MSG_PEEK)
            end = seen.find(_END)
            size = (len(seen) if end < 0 else end + len(_END)) - len(self._held)
        self._held += self._receive(max(1, size))

    def _receive(self, size: int) -> bytes:
        data = self._connection.recv(size)
        if not data:
            raise ConnectionResetError("the engine hung up before it had answered")
        return data
