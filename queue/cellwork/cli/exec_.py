"""``cellwork exec``: a program, such as a shell, in a running sandbox."""

import json
import subprocess

import click

from . import application, completions, sandbox


@click.command("exec", short_help="A program in a task's sandbox: exec -it ID -- sh.")
@click.argument("wanted", metavar="ID", shell_complete=completions.running_ids)
@click.argument("command", nargs=-1, required=True)
@click.option("-A", "--app", "name", default=None, help="The Celery application, as for celery -A.")
@click.option("-i", "--interactive", is_flag=True, help="Give it this terminal's input.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal of its own.")
@click.option("--json", "as_json", is_flag=True, help="For programs: status and output as one JSON object.")
@click.pass_context
def exec_(
    context: click.Context,
    wanted: str,
    command: tuple[str, ...],
    name: str | None,
    interactive: bool,
    tty: bool,
    as_json: bool,
) -> None:
    """Run COMMAND in the sandbox of the task ID, as the task's user: cellwork exec -it ID -- sh

    Exit status: that of the command. What it prints is not escaped.
    """
    target = sandbox.find(application.given(context, name), wanted)
    flags = ["-i"] * interactive + ["-t"] * tty
    pipe = subprocess.PIPE if as_json else None
    with sandbox.started("exec", *flags, target, *command, stdout=pipe, stderr=pipe) as process:
        out, err = process.communicate()
    if as_json:
        said = {
            name: (text or b"").decode(errors="backslashreplace") for name, text in (("stdout", out), ("stderr", err))
        }
        click.echo(json.dumps({"sandbox": target, "status": process.returncode, **said}))
    context.exit(process.returncode)
