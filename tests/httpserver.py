"""HTTP servers of the tests, each in a thread of its own."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer
from typing import TypeVar

Server = TypeVar("Server", bound=HTTPServer)

#: Seconds between its looks whether it is to end.
_LOOK = 0.05


@contextmanager
def answering(server: Server) -> Iterator[Server]:
    """Have `server` answer meanwhile; it is closed afterwards."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(_LOOK,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
