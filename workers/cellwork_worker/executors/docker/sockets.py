"""One pool of connections to the engine's socket.

docker-py keeps a pool for every URL, and each container has URLs of its own: every request would connect anew, and
close what another one had left open. That was a sixth of the worker's processor time for a cold task.
"""

from typing import Any

import docker
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
