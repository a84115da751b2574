"""TCP ports for what a test starts, each given once to all test runs of this machine."""

import random
import socket

#: Below those that Linux gives to whoever asks for none (net.ipv4.ip_local_port_range, from 32768): a connection that
#: somebody opens meanwhile never takes one.
_FIRST, _LAST = 20_000, 29_999

#: Each stands for a port that is given; as long as this process lives, nobody else is given the same.
_claims: list[socket.socket] = []


def free_port() -> int:
    """A port of the loopback interface on which nothing listens, this caller's until the process ends."""
    for port in random.sample(range(_FIRST, _LAST + 1), 100):
        claim = socket.socket(socket.AF_UNIX)
        with socket.socket() as probe:
            try:
                claim.bind(f"\0cellwork-tests-port-{port}")  # in the abstract namespace: no file that could be left
                probe.bind(("127.0.0.1", port))
            except OSError:
                claim.close()
                continue
        _claims.append(claim)
        return port
    raise OSError(f"of 100 ports between {_FIRST} and {_LAST} none is free")
