"""``cellwork demo``: the main job on real input, with nothing prepared."""

import importlib
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from . import application
from .demo_images import build_environments, build_images, zone_table
from .doctor import executor_health
from .processes import Processes

_PROJECT = Path(__file__).parent / "demo_project"

#: Seconds for all of the demo's tasks together.
_TIMEOUT = 120.0

#: The last one fails on purpose.
_EXPECTED = ["SUCCESS"] * 4 + ["FAILURE"]


@dataclass
class Row:
    """One task of the demo, as the table shows it."""

    title: str
    result: Any
    sent: float = field(default_factory=time.monotonic)
    took: float | None = None

    def state(self) -> str:
        """Its state now; remembers when it ended."""
        state = str(self.result.state)
        if self.took is None and self.result.ready():
            self.took = time.monotonic() - self.sent
        return state

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {"task": self.title, "task_id": self.result.id, "state": self.state(), "seconds": self.took}


@click.command(short_help="A tour: conflicting libraries side by side, and more.")
@click.option("--keep", is_flag=True, help="Leave worker, broker and Flower running until Ctrl-C.")
@click.option("--flower-port", default=5555, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="For programs: the tasks' outcomes on standard output.")
def demo(keep: bool, flower_port: int, as_json: bool) -> None:
    """Run tasks with conflicting libraries side by side, and more, each in a sandbox of its own."""
    console = Console(stderr=as_json)
    executor, env = _prepare(console)
    os.environ.update(env)
    sys.path.insert(0, str(_PROJECT))
    app = application.load("zones.app")
    with tempfile.TemporaryDirectory() as folder, application.broker(str(app.conf.broker_url)) as where:
        console.print(f"broker    {where}", highlight=False)
        log = Path(folder) / "worker.log"
        processes = Processes("zones.app", env={**env, "PYTHONPATH": _python_path()}, log=log)
        try:
            processes.start("worker", "worker", "-c", "4", "-E", "-l", "INFO", "-n", "demo@%h")
            if keep:
                processes.start("flower", "flower", "--address=127.0.0.1", f"--port={flower_port}")
            _wait_for_worker(app, processes, log)
            rows = _run(console, executor)
            ok = [row.state() for row in rows] == _EXPECTED
            if as_json:
                click.echo(json.dumps([row.document() for row in rows], indent=2))
            if keep:
                console.print(f"\nFlower: http://127.0.0.1:{flower_port}   Ctrl-C stops everything.")
                processes.wait()
        except KeyboardInterrupt:
            console.print("\nstopping …")
            ok = True
        finally:
            processes.stop()
    if not ok:
        raise click.ClickException("a task did not end as it should; see the table above")
    if not keep:
        console.print("\nAll of it has ended, and nothing is left running; with --keep (make up) it stays up.")


def _prepare(console: Console) -> tuple[str, dict[str, str]]:
    """Make what the tasks run in. Returns the executor and the variables that the demo's tasks read."""
    health = executor_health("docker")
    if health.ok and os.environ.get("CELLWORK_EXECUTOR") != "process":
        base = os.environ.get("CELLWORK_BASE_IMAGE", "python:3.12-slim")
        console.print(f"sandboxes {health.detail}", highlight=False)
        build_images(base, console)
        return "docker", {"CELLWORK_EXECUTOR": "docker"}
    console.print(
        "[yellow]No Docker engine: tasks run as fresh local processes, which isolates nothing. For containers, "
        "install Docker (Debian: apt-get install docker.io).[/yellow]"
    )
    return "process", {"CELLWORK_EXECUTOR": "process", **build_environments(console)}


def _python_path() -> str:
    return os.pathsep.join(filter(None, [str(_PROJECT), os.environ.get("PYTHONPATH")]))


def _wait_for_worker(app: Any, processes: Processes, log: Path) -> None:
    deadline = time.monotonic() + 60
    while not app.control.ping(timeout=0.5):
        if (name := processes.ended()) or time.monotonic() > deadline:
            what = f"{name} ended" if name else "the worker does not answer"
            raise click.ClickException(f"{what}; what worker and Flower said:\n{log.read_text()[-3000:]}")


def _run(console: Console, executor: str) -> list[Row]:
    tasks = importlib.import_module("zones.tasks")
    text = zone_table()
    console.print(f"input     the IANA time zone table, {len(text.splitlines())} lines\n", highlight=False)
    chain = tasks.rows.s(text) | tasks.southernmost.s() | tasks.sentence.s()
    rows = [
        Row("validate_with_1", tasks.validate_with_1.delay(text)),
        Row("validate_with_2", tasks.validate_with_2.delay(text)),
        Row("rows | southernmost | sentence", chain.apply_async()),
        Row("checksum (no Python inside)", tasks.checksum.delay(text)),
        Row("fails (on purpose)", tasks.fails.delay(text)),
    ]
    deadline = time.monotonic() + _TIMEOUT
    with Live(_table(rows, executor), console=console, refresh_per_second=8) as live:
        while any(row.took is None for row in rows) and time.monotonic() < deadline:
            live.update(_table(rows, executor))
            time.sleep(0.1)
        live.update(_table(rows, executor))
    if rows[-1].result.ready():
        console.print("\nThe traceback of the task that failed, as it was in its sandbox:", highlight=False)
        remote = str(rows[-1].result.traceback).split('"""')
        console.print(Text(remote[1].strip() if len(remote) > 1 else remote[0].strip(), style="dim"))
    return rows


def _table(rows: list[Row], executor: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("TASK", "STATE", "SECONDS", "SANDBOX" if executor == "docker" else "PROCESS", "RESULT"):
        table.add_column(title, overflow="fold", no_wrap=title in {"STATE", "SECONDS"})
    for row in rows:
        state = row.state()
        style = {"SUCCESS": "green", "FAILURE": "red"}.get(state, "yellow")
        seconds = f"{row.took if row.took is not None else time.monotonic() - row.sent:.1f}"
        sandbox = f"cellwork-{row.result.id[:8]}…"
        table.add_row(row.title, f"[{style}]{state}[/{style}]", seconds, sandbox, _outcome(row))
    return table


def _outcome(row: Row) -> Text:
    """What came back: the sandbox's word, so it is shown as text, never as markup."""
    if row.took is None:
        return Text("")
    value = row.result.result
    if isinstance(value, dict):
        refused = f", refuses the others: {value['complaint']}" if value["complaint"] else ""
        return Text(f"{value['library']} accepts {value['accepted']} rows{refused}")
    if isinstance(value, Exception):
        return Text(f"{type(value).__name__}: {value}")
    return Text(str(value).strip())
