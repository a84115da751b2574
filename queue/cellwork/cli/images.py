"""``cellwork images``: the images that an app's tasks declare."""

import difflib
import importlib
import json
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cellwork import declared, settings
from cellwork.declared import Declared
from cellwork.errors import EngineUnavailable, InvalidSpec
from cellwork.image import Image
from cellwork.quantity import format_bytes

from . import application

#: Seconds for an image that is only copied.
TIMEOUT = 1800.0

_JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")


class ImageEngine:
    """The worker's side, by name: nothing that a producer imports may import it, nor the SDK that it needs."""

    def __init__(self) -> None:
        """Raises:
        EngineUnavailable: the SDK is not installed.
        """
        try:
            docker: Any = importlib.import_module("cellwork_worker.executors.docker")
            self.built: Any = importlib.import_module("cellwork_worker.executors.docker.built")
        except ImportError as error:
            raise EngineUnavailable(
                f"the Docker SDK is not installed ({error}); pip install cellwork[docker]"
            ) from error
        self.engine = docker.Engine()
        self.builder = docker.ImageBuilder(self.engine)

    def push(self, tag: str, reference: str) -> str:
        """Push one, with a bar that shows the bytes; return its digest."""
        bar = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
        with Progress(*bar, console=Console(stderr=True)) as progress:
            shown = progress.add_task(reference, total=None)

            def say(done: int, of: int) -> None:
                progress.update(shown, completed=done, total=of)

            return str(self.built.push(self.engine, tag, reference, say))

    def build(self, app: Any, tag: str, image: Image) -> None:
        """Build one, with a bar that shows the step."""
        rules: Any = importlib.import_module("cellwork_worker.policy").load(settings.load(app).policy)
        imagebuild: Any = importlib.import_module("cellwork_worker.imagebuild")
        with steps(tag) as say:
            imagebuild.build(image, tag, app, self.builder, rules.build_timeout, say)


@contextmanager
def steps(tag: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar that shows the step of a build; on standard error, so that what a program reads is only the result."""
    bar = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*bar, TextColumn("{task.fields[step]}"), console=Console(stderr=True)) as progress:
        shown = progress.add_task(tag, total=None, step="")
        yield lambda step, of, text: progress.update(shown, completed=step, total=of, step=escape(text[:60]))


@click.group(short_help="Images that tasks declare: build, push, ls, prune …")
@click.option("-A", "--app", "name", default=None, help="The Celery application, as for celery -A.")
@click.pass_context
def images(context: click.Context, name: str | None) -> None:
    """Images that tasks declare with cellwork.Image."""
    context.meta["cellwork.app"] = name


@images.command()
@click.option("--force", is_flag=True, help="Also those that are there.")
@_JSON
@click.pass_context
def build(context: click.Context, force: bool, as_json: bool) -> None:
    """Build those that are missing."""
    app, wanted, engine = _given(context)
    done = []
    for one in wanted:
        fresh = force or not engine.builder.has(one.tag)
        if fresh:
            engine.build(app, one.tag, one.image)
        done.append({"image": one.tag, "built": fresh, "id": engine.builder.inspect(one.tag)["Id"]})
    _show(done, as_json, lambda row: f"{'built' if row['built'] else 'there'}  {row['image']}")


@images.command()
@click.option("--registry", default="", help="Where to, such as registry.example:5000; default: what each image says.")
@click.option("--digests", type=click.Path(dir_okay=False), help="Write the digests there, for image_digests.")
@_JSON
@click.pass_context
def push(context: click.Context, registry: str, digests: str | None, as_json: bool) -> None:
    """Push them, and say by which digest other hosts get the same bytes."""
    _, wanted, engine = _given(context)
    homeless = [one.tag for one in wanted if not (registry or one.image.registry)]
    if homeless:
        raise click.UsageError(f"{homeless[0]}: pushed where? Say --registry, or registry= of its Image")
    done = []
    for one in wanted:
        own = one.tag.removeprefix(f"{one.image.registry}/") if one.image.registry else one.tag
        reference = f"{registry or one.image.registry}/{own}"
        done.append({"image": reference, "tag": one.tag, "digest": engine.push(one.tag, reference)})
    if digests is not None:
        pinned = {row["tag"]: row["digest"] for row in done}
        Path(digests).write_text(json.dumps(pinned, indent=2, sort_keys=True) + "\n")
    _show(done, as_json, lambda row: f"pushed {row['image']}\n       {row['digest']}")


@images.command()
@_JSON
@click.pass_context
def ls(context: click.Context, as_json: bool) -> None:
    """What is declared, by which tasks, and whether it is there."""
    _, wanted, engine = _given(context)
    rows: list[dict[str, Any]] = []
    for one in wanted:
        there = engine.builder.inspect(one.tag) or {}
        rows.append({"image": one.tag, "size": there.get("Size"), "id": there.get("Id"), "tasks": list(one.tasks)})
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table("IMAGE", "SIZE", "ID", "TASKS", box=None, pad_edge=False)
    for row in rows:
        size = "missing" if row["size"] is None else format_bytes(row["size"])
        table.add_row(row["image"], size, str(row["id"] or "")[7:19], ", ".join(row["tasks"]))
    Console().print(table)


@images.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@_JSON
@click.pass_context
def prune(context: click.Context, dry_run: bool, as_json: bool) -> None:
    """Remove what this app built and declares no more; what a container uses stays."""
    app, wanted, engine = _given(context)
    done = []
    for one in engine.built.built(engine.engine, str(app.main)):
        if {known.tag for known in wanted}.isdisjoint(one.tags):
            for name in one.tags or (one.id,):
                kept = None if dry_run else engine.built.remove(engine.engine, name)
                done.append({"image": name, "size": one.size, "kept": kept})
    word = "would go" if dry_run else "removed"
    _show(done, as_json, lambda row: f"kept {row['image']}: {row['kept']}" if row["kept"] else f"{word} {row['image']}")


@images.command()
@_JSON
@click.pass_context
def diff(context: click.Context, as_json: bool) -> None:
    """What would be built, against what was built last; exit status 1 if anything would be."""
    app, wanted, engine = _given(context)
    before = engine.built.built(engine.engine, str(app.main))
    rows = [_difference(one, before) for one in wanted if not engine.builder.has(one.tag)]
    _show(rows, as_json, lambda row: f"to build {row['image']} ({row['why']})\n{row['dockerfile']}".rstrip())
    if rows:
        context.exit(1)


def _difference(one: Declared, before: Iterable[Any]) -> dict[str, str]:
    last = next((built for built in before if built.repository == one.image.repository), None)
    if last is None:
        return {"image": one.tag, "why": "never built here", "dockerfile": ""}
    lines = difflib.unified_diff(last.dockerfile.splitlines(), one.image.text.splitlines(), "built", "declared", "", "")
    changed = "\n".join(line.rstrip("\n") for line in lines)
    return {"image": one.tag, "why": "other steps" if changed else "other files", "dockerfile": changed}


@images.command("from-venv")
@click.argument("tag", metavar="TAG")
@click.option("--base", required=True, help="An image with the same version of Python that is on the engine.")
@click.option("--site-packages", default=None, help="The folder to pack; default: that of this Python.")
@_JSON
def from_venv(tag: str, base: str, site_packages: str | None, as_json: bool) -> None:
    """Pack the libraries of this environment into image TAG: needs no registry and no package index."""
    engine = ImageEngine()
    ours = f"{sysconfig.get_python_version()} on {sysconfig.get_platform()}"
    theirs = " on ".join(engine.built.python_version(engine.engine, base))
    if ours != theirs:
        raise click.ClickException(
            f"{base} has Python {theirs}, this environment {ours}: its libraries would not work there; give --base an "
            f"image with the same"
        )
    folder = Path(site_packages or sysconfig.get_path("purelib")).resolve()
    target = "/opt/cellwork/site-packages"
    image = Image(base, name="venv").copy(str(folder), target).env(PYTHONPATH=target)
    labels = {"cellwork.image": tag, "cellwork.dockerfile": image.text}
    with steps(tag) as say:
        engine.builder.build(image, tag, labels, TIMEOUT, say, {})
    size = engine.builder.inspect(tag)["Size"]
    _show([{"image": tag, "size": size}], as_json, lambda row: f"built {tag}, {format_bytes(size)}")


def _given(context: click.Context) -> tuple[Any, list[Declared], ImageEngine]:
    app = application.given(context, context.meta["cellwork.app"])
    try:
        return app, list(declared.images(app).values()), ImageEngine()
    except InvalidSpec as error:
        raise click.ClickException(str(error)) from error


def _show(rows: list[dict[str, Any]], as_json: bool, line: Any) -> None:
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        click.echo(line(row))
    if not rows:
        click.echo("nothing to do")
