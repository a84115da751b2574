"""One pool of connections to the engine's socket, for what is streamed (client.py has the rest).

docker-py keeps a pool for every URL, and each container has URLs of its own: every request would connect anew, and
close what another one had left open.
"""

import socket
from typing import Any
from urllib.parse import urlsplit

import docker
import requests
from docker.transport import UnixHTTPAdapter


class PooledAdapter(UnixHTTPAdapter):
    """To one engine."""

    def get_connection(self, url: str | bytes, proxies: Any = None) -> Any:
        """One for all URLs."""
        return super().get_connection("", proxies)


def pool_connections(client: docker.APIClient, timeout: int, most: int) -> None:
    """Have a client of a Unix socket reuse its connections; nothing changes for others.

    Args:
        client: connects to one engine.
        timeout: seconds for one answer.
        most: connections that are kept open.
    """
    adapter = client.get_adapter(client.base_url)
    if isinstance(adapter, UnixHTTPAdapter):
        client.mount(client.base_url, PooledAdapter(f"http+unix://{adapter.socket_path}", timeout, 1, most))
        # Proxies and logins of the environment are for hosts; requests would look for them each time.
        client.trust_env = False


def knock(client: docker.APIClient, timeout: int) -> None:
    """See whether the engine takes a new connection.

    One that is about to end takes none, while it still answers on those that it has: how a container ended that it ends
    then, too.

    Raises:
        requests.ConnectionError: it takes none.
    """
    adapter = client.get_adapter(client.base_url)
    try:
        if isinstance(adapter, UnixHTTPAdapter):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(timeout)
                probe.connect(adapter.socket_path)
                # Behind a tunnel, whoever takes the connection is not the engine yet.
                probe.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                if not probe.recv(1):
                    raise ConnectionResetError("it hung up")
        else:
            where = urlsplit(client.base_url)
            socket.create_connection((where.hostname, where.port), timeout).close()
    except OSError as error:
        raise requests.ConnectionError(error) from error
