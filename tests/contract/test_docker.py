"""Parts of docker-py that the executor relies on. Written against docker 7.1."""

import psutil
import pytest
from docker.errors import NotFound

from cellwork_worker.executors.docker.engine import Engine


def sockets() -> int:
    return len(psutil.Process().net_connections("unix"))


def test_requests_about_different_containers_share_a_connection():
    client = Engine().client
    before = sockets()
    for number in range(5):
        with pytest.raises(NotFound):
            client.inspect_container(f"cellwork-none-{number}")
        assert sockets() <= before + 1
    client.close()
