"""The workers' way to the Docker engine or to Redis, which can be blocked for a while, and cut."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ports import free_port

MACHINES = Path("/var/run/docker.sock")


def _unix(path: Path) -> socket.socket:
    to = socket.socket(socket.AF_UNIX)
    try:
        to.connect(str(path))
    except OSError:
        to.close()
        raise
    return to


class Way:
    """A listener, each of whose connections goes on to a server's."""

    def __init__(self, listener: socket.socket, connect: Callable[[], socket.socket]) -> None:
        """`connect`: to the server."""
        self._connect = connect
        self._open = threading.Event()
        self._open.set()
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._listener = listener
        self._listener.listen(128)
        threading.Thread(target=self._accept, daemon=True).start()

    def block(self) -> None:
        """Nothing passes, and nothing breaks either, until `unblock`."""
        self._open.clear()

    def unblock(self) -> None:
        self._open.set()

    def cut(self) -> bool:
        """Every connection breaks. False: there was none."""
        with self._lock:
            broken = list(self._connections)
            self._connections.clear()
        for one in broken:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        return bool(broken)

    def close(self) -> None:
        self._listener.close()
        self.unblock()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                worker, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = self._connect()
            except OSError:  # it restarts
                worker.close()
                continue
            with self._lock:
                self._connections |= {worker, server}
            for source, sink in ((worker, server), (server, worker)):
                threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        # One direction is at its end, such as a sandbox's input; the other goes on.
        ended = socket.SHUT_WR
        try:
            while data := source.recv(1 << 16):
                self._open.wait()
                sink.sendall(data)
        except OSError:
            ended = socket.SHUT_RDWR
        with suppress(OSError):
            sink.shutdown(ended)
        with self._lock:
            self._connections.discard(source)


class EngineWay(Way):
    """To a Docker engine, by a socket of its own."""

    def __init__(self, folder: Path, engine: Path = MACHINES) -> None:
        """`folder`: where its socket is."""
        path = folder / "engine.sock"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        self.url = f"unix://{path}"
        super().__init__(listener, lambda: _unix(engine))


class RedisWay(Way):
    """To a Redis of this machine, by a port of its own."""

    def __init__(self, port: int) -> None:
        """`port`: the server's."""
        mine = free_port()
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", mine))
        self.url = f"redis://127.0.0.1:{mine}"
        super().__init__(listener, lambda: socket.create_connection(("127.0.0.1", port)))
