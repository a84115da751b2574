"""The workers' way to the Docker engine, which can be blocked for a while, and cut."""

import socket
import threading
from contextlib import suppress
from pathlib import Path

MACHINES = Path("/var/run/docker.sock")


class EngineWay:
    """A socket of its own, each of whose connections goes on to the engine's."""

    def __init__(self, folder: Path, engine: Path = MACHINES) -> None:
        self.path = folder / "engine.sock"
        self._engine = engine
        self._open = threading.Event()
        self._open.set()
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(128)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    def block(self) -> None:
        """Nothing passes, and nothing breaks either, until `unblock`."""
        self._open.clear()

    def unblock(self) -> None:
        self._open.set()

    def cut(self) -> bool:
        """Every connection breaks, as when an engine restarts that leaves its containers running. False: none was."""
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
            engine = socket.socket(socket.AF_UNIX)
            try:
                engine.connect(str(self._engine))
            except OSError:  # it restarts
                engine.close()
                worker.close()
                continue
            with self._lock:
                self._connections |= {worker, engine}
            for source, sink in ((worker, engine), (engine, worker)):
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
