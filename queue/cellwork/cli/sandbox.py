"""A running sandbox on this machine's engine, reached with its ``docker`` command."""

import subprocess
from typing import IO

import click
from celery import Celery

from cellwork import settings
from cellwork.printable import printable

from .ps import running


def find(app: Celery, wanted: str) -> str:
    """The name of the running container of a task's id, or of a sandbox's name.

    Raises:
        click.ClickException: it is not here; says where it runs, where a worker knows.
    """
    label = f"label=cellwork.installation={settings.load(app).installation}"
    here = docker("ps", "--format", "{{.Names}}", "--filter", label).split()
    # A sandbox's name starts with its task's id; a second one of the same task is the one that runs.
    if names := [name for name in here if name == wanted or name.startswith(f"cellwork-{wanted}-")]:
        return names[0]
    for row in running(app):
        if wanted in (row["task_id"], row["sandbox"]):
            if row["sandbox"] in here:
                return str(row["sandbox"])
            raise click.ClickException(_elsewhere(row))
    raise click.ClickException(f"no sandbox of {printable(wanted)} runs: the task has not started, or has ended")


def _elsewhere(row: dict[str, str]) -> str:
    where = f"sandbox {printable(row['sandbox'])} runs on worker {row['worker']}, host {row['host']}"
    if row["executor"] == "kubernetes":
        return f"{where}, as a pod; enter it with kubectl exec -it {printable(row['sandbox'])} -- sh"
    if row["executor"] != "docker":
        return f"{where}, and is no container but a {row['executor']} sandbox: nothing can enter it"
    return f"{where}, which does not use this machine's engine; run this there, or set DOCKER_HOST=ssh://{row['host']}"


def docker(*arguments: str) -> str:
    """What ``docker …`` prints.

    Raises:
        click.ClickException: the command is not installed, or failed; with what it said.
    """
    with started(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, err = process.communicate()
    if process.returncode != 0:
        raise click.ClickException(failed(err))
    return out.decode(errors="replace")


def started(
    *arguments: str,
    stdin: "int | IO[bytes] | None" = None,
    stdout: "int | None" = None,
    stderr: "int | IO[bytes] | None" = None,
) -> "subprocess.Popen[bytes]":
    """``docker …``, started.

    Raises:
        click.ClickException: the command is not installed.
    """
    try:
        return subprocess.Popen(["docker", *arguments], stdin=stdin, stdout=stdout, stderr=stderr)  # noqa: S607
    except FileNotFoundError:
        raise click.ClickException(
            "the docker command is not installed here (Debian: apt-get install docker-cli or docker.io)"
        ) from None


def failed(said: bytes) -> str:
    """The first thing that the command said, as one line; part of it may be the sandbox's."""
    lines = said.decode(errors="replace").strip().splitlines()
    said_first = printable(lines[0]) if lines else "failed and said nothing"
    hint = " Start it, or name another engine in DOCKER_HOST" if "Cannot connect to the Docker" in said_first else ""
    return f"docker: {said_first}{hint}"
