"""HTTP over the engine's socket, against a server that answers what a test wants."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from cellwork_worker.executors.docker.line import Line

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Gives the next of its answers, piece by piece, to each request; counts connections. A None: it hangs up."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: list[tuple[bytes | None, ...]] = []
        self.requests: list[bytes] = []
        self.connections = 0
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            while request := connection.recv(1 << 16):
                self.requests.append(request)
                for piece in self.answers.pop(0):
                    if piece is None:
                        return
                    connection.sendall(piece)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path / "engine.sock")
    yield found
    found.close()


@pytest.fixture
def line(server: Server) -> Iterator[Line]:
    found = Line(str(server.path), most=2)
    yield found
    found.close()


def get(line: Line, timeout: float | None = 60) -> requests.Response:
    return line.ask("GET", "/v1.41/info", b"", {}, timeout)


@pytest.mark.parametrize(
    "answer",
    [
        (OK,),
        (OK[:20], OK[20:-1], OK[-1:]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\nTrailer: t\r\n\r\n",),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n2\r", b"\nok\r\n0\r", b"\n\r\n"),
    ],
)
def test_a_body_is_read_whole_however_it_comes_and_the_connection_is_used_again(server, line, answer):
    server.answers = [answer, answer]
    assert [get(line).text, get(line).text] == ["ok", "ok"]
    assert server.connections == 1


def test_an_answer_that_has_no_body_ends_with_its_head(server, line):
    server.answers = [(b"HTTP/1.1 204 No Content\r\n\r\n",), (OK,)]
    assert line.ask("POST", "/start", b"", {}, 60).content == b""
    assert get(line).text == "ok"
    assert server.connections == 1


def test_an_answer_without_a_length_ends_with_its_connection(server, line):
    server.answers = [(b"HTTP/1.0 200\r\n\r\no", b"k", None), (OK,)]
    assert [get(line).text, get(line).text] == ["ok", "ok"]
    assert server.connections == 2


def test_a_refusal_has_status_reason_and_text(server, line):
    server.answers = [(b'HTTP/1.1 404 Not Found\r\nContent-Length: 16\r\n\r\n{"message": "x"}',)]
    refused = get(line)
    assert (refused.status_code, refused.reason, refused.json()) == (404, "Not Found", {"message": "x"})
    with pytest.raises(requests.HTTPError):
        refused.raise_for_status()


def test_a_connection_that_was_closed_while_nobody_used_it_is_replaced(server, line):
    server.answers = [(OK,), (OK,)]
    get(line)
    line._idle[0].shutdown(socket.SHUT_RDWR)
    assert get(line).text == "ok"
    assert server.connections == 2


def test_one_that_breaks_in_the_midst_of_an_answer_is_a_connection_error(server, line):
    server.answers = [(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", None)]
    with pytest.raises(requests.ConnectionError):
        get(line)
    assert not line._idle


def test_one_that_does_not_answer_in_time_is_a_timeout(server, line):
    server.answers = [()]
    with pytest.raises(requests.ReadTimeout, match=r"no answer within 0\.1 seconds"):
        get(line, 0.1)
    assert not line._idle


def test_what_is_no_http_is_a_connection_error(server, line):
    server.answers = [(b"220 mail ESMTP\r\n\r\n",)]
    with pytest.raises(requests.ConnectionError):
        get(line)


def test_nobody_listens_is_a_connection_error(tmp_path):
    with pytest.raises(requests.ConnectionError):
        get(Line(str(tmp_path / "none.sock"), most=2))


def test_an_upgraded_connection_begins_with_the_streams_first_byte(server, line):
    server.answers = [(b"HTTP/1.1 101 UPGRADED\r\nUpgrade: t", b"cp\r\n\r\n\r\n\r\nfirst")]
    stream = line.upgrade("/containers/x/attach?stdin=1", 60)
    assert isinstance(stream, socket.socket)
    with stream:
        received = b""
        while len(received) < 9:
            received += stream.recv(1)
    assert received == b"\r\n\r\nfirst"
    assert b"Upgrade: tcp\r\n" in server.requests[0]


def test_a_refused_upgrade_is_a_response(server, line):
    server.answers = [(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}",), (OK,)]
    refused = line.upgrade("/containers/x/attach", 60)
    assert isinstance(refused, requests.Response)
    assert (refused.status_code, refused.text) == (404, "{}")


def test_no_more_connections_are_kept_than_wanted(server):
    line = Line(str(server.path), most=0)
    server.answers = [(OK,), (OK,)]
    get(line), get(line)
    assert server.connections == 2
