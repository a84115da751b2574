"""``cellwork cp``: files out of a running sandbox, and into it.

Through ``tar`` in the sandbox, not ``docker cp``: that does not see what is mounted, and ``/tmp``, where a task can
write, is.
"""

import json
import subprocess
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import IO

import click

from . import application, completions, sandbox


@click.command(short_help="Files out of a sandbox, or in: cp ID:/tmp/out.csv .")
@click.argument("source", metavar="SOURCE", shell_complete=completions.files_or_sandboxes)
@click.argument("target", metavar="TARGET", shell_complete=completions.files_or_sandboxes)
@click.option("-A", "--app", "name", default=None, help="The Celery application, as for celery -A.")
@click.option("--json", "as_json", is_flag=True, help="For programs: what was copied, as one JSON object.")
@click.pass_context
def cp(context: click.Context, source: str, target: str, name: str | None, as_json: bool) -> None:
    """Copy a file or folder: cellwork cp ID:/tmp/out.csv .  or  cellwork cp ./in.csv ID:/tmp/

    A target that ends with "/" (or, here, is a folder) is what it goes into. The sandbox's image must have tar.
    """
    remote_source, remote_target = _remote(source), _remote(target)
    if (remote_source is None) == (remote_target is None):
        raise click.UsageError("one of SOURCE and TARGET must be ID:/absolute/path, the other a path of this machine")
    app = application.given(context, name)
    if remote_source is not None:
        wanted, path = remote_source
        fetch(sandbox.find(app, wanted), path, Path(target))
    elif remote_target is not None:
        wanted, path = remote_target
        send(Path(source), sandbox.find(app, wanted), path, into=target.endswith("/"))
    if as_json:
        click.echo(json.dumps({"source": source, "target": target}))


def _remote(text: str) -> tuple[str, PurePosixPath] | None:
    wanted, colon, path = text.partition(":")
    return (wanted, PurePosixPath(path)) if colon and wanted and path.startswith("/") else None


def fetch(name: str, path: PurePosixPath, target: Path) -> None:
    """Copy `path` of the sandbox `name` to `target`.

    Raises:
        click.ClickException: there is no such file, or what came is not safe to unpack.
    """
    with tempfile.TemporaryDirectory(dir=_folder(target), prefix=".cellwork-") as folder:
        with tempfile.TemporaryFile() as said:
            arguments = ("exec", name, "tar", "-C", str(path.parent), "-cf", "-", "--", path.name or ".")
            with sandbox.started(*arguments, stdout=subprocess.PIPE, stderr=said) as process:
                assert process.stdout is not None
                problem = _unpack(process.stdout, Path(folder))
                if problem is not None and process.stdout.read(1):
                    process.kill()
            if process.returncode > 0:
                said.seek(0)
                problem = sandbox.failed(said.read())
        found = Path(folder) / (path.name or ".")
        if problem is None and (found.is_symlink() or not found.exists()):
            problem = f"{path}: the sandbox sent a link, or something else; copy what it points to"
        if problem is not None:
            raise click.ClickException(problem)
        _move(found, target / path.name if target.is_dir() else target)


def _folder(target: Path) -> Path:
    folder = target if target.is_dir() else target.parent
    if not folder.is_dir():
        raise click.ClickException(f"{folder}: there is no such folder here")
    return folder


def _unpack(stream: IO[bytes], folder: Path) -> str | None:
    """Unpack what a sandbox sends, which is hostile: nothing outside of `folder`, no devices, no foreign owners."""
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            archive.extractall(folder, filter="data")
    except tarfile.FilterError as error:
        return f"refused to unpack what the sandbox sent: {error}"
    except tarfile.ReadError as error:
        return f"what the sandbox sent is no tar archive: {error}"
    except OSError as error:
        return f"cannot write what the sandbox sent: {error}"
    return None


def _move(found: Path, target: Path) -> None:
    try:
        found.rename(target)
    except OSError as error:
        raise click.ClickException(f"{target}: {error.strerror}") from error


def send(source: Path, name: str, path: PurePosixPath, *, into: bool) -> None:
    """Copy `source` into the sandbox `name`, as `path`, or into the folder `path`.

    Raises:
        click.ClickException: there is no such file, or the sandbox cannot write there.
    """
    if not source.exists():
        raise click.ClickException(f"{source}: there is no such file here")
    folder, arcname = (path, source.resolve().name) if into else (path.parent, path.name)
    with tempfile.TemporaryFile() as said:
        # -o: files belong to the task's user, who could not give them to somebody else.
        arguments = ("exec", "-i", name, "tar", "-C", str(folder), "-xof", "-")
        with sandbox.started(*arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said) as process:
            assert process.stdin is not None
            try:
                with tarfile.open(fileobj=process.stdin, mode="w|") as archive:
                    archive.add(source, arcname)
                process.stdin.close()
            except BrokenPipeError:
                pass  # tar has left, and has said why
        if process.returncode != 0:
            said.seek(0)
            raise click.ClickException(sandbox.failed(said.read()))
