"""``python -m cellwork_worker.engineproxy``: the proxy of compose/compose.yaml."""

import argparse
import asyncio
import http.client
import logging
import os
import signal
import socket
import sys
from pathlib import Path

from .containers import Allowed
from .door import HEAD_BYTES, Door


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cellwork_worker.engineproxy", description=__doc__)
    parser.add_argument("--listen", required=True, type=Path, help="path of the socket for workers")
    parser.add_argument("--engine", default="/var/run/docker.sock", help="path of the engine's socket")
    parser.add_argument("--installation", default="default", help="whose sandboxes it is for (CELLWORK_INSTALLATION)")
    parser.add_argument(
        "--networks", default="", help="networks that tasks may use beside none and bridge, with spaces between"
    )
    parser.add_argument(
        "--volumes", default="", help="folders of the host and volumes that tasks may mount, with spaces between"
    )
    parser.add_argument("--check", action="store_true", help="only ask whether the engine answers through it")
    return parser.parse_args()


async def _serve(listen: Path, door: Door) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    listen.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(door.enter, listen, limit=HEAD_BYTES)
    # Whoever reaches the folder may connect: that is who mounts its volume.
    listen.chmod(0o666)
    async with server:
        await stop.wait()


def _answers(listen: Path) -> bool:
    connection = http.client.HTTPConnection("docker", timeout=5)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(5)
    try:
        connection.sock.connect(os.fspath(listen))
        connection.request("GET", "/_ping")
        return connection.getresponse().read() == b"OK"
    except (OSError, http.client.HTTPException) as error:
        print(f"the engine does not answer at {listen}: {error!r}", file=sys.stderr)
        return False
    finally:
        connection.close()


def main() -> int:
    """Serve until SIGTERM."""
    given = _arguments()
    if given.check:
        return 0 if _answers(given.listen) else 1
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    allowed = Allowed(
        installation=given.installation,
        networks=frozenset(given.networks.split()),
        volumes=tuple(given.volumes.split()),
    )
    asyncio.run(_serve(given.listen, Door(given.engine, allowed)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
