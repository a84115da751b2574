"""Command tasks: an image without Python."""

from cellwork import command

from .app import BUSYBOX, app


@command(app, image=BUSYBOX, name="shop.checksum")
def checksum(text):
    return ["sh", "-c", 'printf %s "$0" | sha256sum | cut -d" " -f1', text]


@command(app, image=BUSYBOX, result="json")
def as_json(document):
    return ["echo", document]


@command(app, image=BUSYBOX, result="none")
def silent():
    return ["echo", "nobody reads this"]


@command(app, image=BUSYBOX)
def status(code):
    return ["sh", "-c", f"echo to stdout; echo to stderr >&2; exit {int(code)}"]


@command(app, image=BUSYBOX)
def wait(seconds):
    return ["sleep", str(seconds)]


@command(app, image=BUSYBOX)
def not_a_list():
    return "echo hello"


@command(app, image=BUSYBOX, name="shop.commands.waits")
def waits(trap):
    """Ends at that signal, with status 7, and at no other but a kill."""
    return ["sh", "-c", 'trap "" TERM INT; trap "exit 7" "$0"; echo ready; while :; do sleep 0.05; done', trap]


@command(app, image=BUSYBOX)
def script(text):
    return ["sh", "-c", text]
