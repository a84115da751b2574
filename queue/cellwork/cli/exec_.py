"""``cellwork exec``: a program, such as a shell, in a running sandbox."""

import click

from . import application, sandbox


@click.command("exec")
@click.argument("wanted", metavar="ID")
@click.argument("command", nargs=-1, required=True)
@click.option("-A", "--app", "name", default=None, help="The Celery application, as for celery -A.")
@click.option("-i", "--interactive", is_flag=True, help="Give it this terminal's input.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal of its own.")
@click.pass_context
def exec_(
    context: click.Context, wanted: str, command: tuple[str, ...], name: str | None, interactive: bool, tty: bool
) -> None:
    """Run COMMAND in the sandbox of the task ID, as the task's user: cellwork exec -it ID -- sh

    Exit status: that of the command. What it prints is not escaped.
    """
    target = sandbox.find(application.given(context, name), wanted)
    flags = ["-i"] * interactive + ["-t"] * tty
    with sandbox.started("exec", *flags, target, *command) as process:
        code = process.wait()
    context.exit(code)
