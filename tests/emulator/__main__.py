"""``python -m emulator KUBECONFIG NAMESPACE``: the emulated cluster in a process of its own, until asked to end."""

import os
import signal
import sys
from pathlib import Path

from emulator.apiserver import ApiServer
from emulator.cluster import kubeconfig
from emulator.node import Node


def main() -> None:
    path, namespace = sys.argv[1:]
    asked = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, asked)
    node = Node(os.environ["EMULATOR_MARK"])
    server = ApiServer(node.logs)
    node.serve(server.store)
    server.metrics = node.metrics
    kubeconfig(Path(path), {"server": server.url}, "dispatcher", namespace).chmod(0o644)
    signal.sigwait(asked)
    server.close()
    node.close()


if __name__ == "__main__":
    main()
