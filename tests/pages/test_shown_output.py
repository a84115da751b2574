"""What pages show below a prompt is what is printed: the ones that need no worker."""

import os
import re
import subprocess
import time

from celery import Celery
from pages import consoles
from pages.blocks import blocks
from pages.claims import the_line

from cellwork import configure
from cellwork.broker import Broker
from cellwork.usage import Run
from cellwork.usagestore import UsageStore

APP = """
from celery import Celery
from cellwork import configure

app = configure(Celery("shop"))


@app.task(image="python:3.12-slim", name="shop.tasks.{name}")
def {name}(): ...
"""


def printed(page: str, typed: str, folder, name: str, **env: str) -> tuple[str, list[str]]:
    """What this line of the page prints, and what the page shows."""
    (line,) = [line for block in blocks(page, "console") for line in consoles.lines(block) if line.typed == typed]
    (folder / "shop").mkdir()
    (folder / "shop" / "app.py").write_text(APP.format(name=name))
    ran = subprocess.run(
        ["bash", "-c", line.typed],
        cwd=folder,
        env={**os.environ, "PATH": consoles.path(), **env},
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0
    assert line.output is not None
    return ran.stdout, line.output


def test_the_router_explains_itself_as_its_page_shows(broker, tmp_path):
    settings = blocks("docs/routing.md", "toml")[0]
    (tmp_path / "cellwork.toml").write_text(settings.text.replace('"error"', '"warn"'))  # no worker of pods is here
    said, shown = printed("docs/routing.md", the_line("docs/routing.md", "cellwork route"), tmp_path, "train")
    assert said.splitlines() == shown


def test_sizes_are_suggested_as_their_page_shows(broker, tmp_path):
    """By runs that used what the page's did; a histogram tells numbers to within 9 %."""
    installation = f"tests-pages-{os.getpid()}"
    app = configure(Celery("shop", set_as_current=False), installation=installation)
    store = UsageStore(Broker(app))
    run = Run(
        task="shop.tasks.parse", task_id="an-id", sandbox="a-sandbox", executor="docker", worker="w", host="h",
        queue="docker", outcome="success", cpus=1, memory_bytes=512 << 20, run_seconds=2.1,
        peak_memory_bytes=int(71.4 * 2**20), cpu_seconds=1.0, ended=time.time(),
    )  # fmt: skip
    store.add([run] * 412)
    said, shown = printed(
        "docs/sizing.md", the_line("docs/sizing.md", "--suggest"), tmp_path, "parse", CELLWORK_INSTALLATION=installation
    )
    assert said.splitlines()[1:] == shown[1:]
    assert re.sub(r"[\d.]+ (MiB|s)\b", r"N \1", said.splitlines()[0]) == re.sub(r"[\d.]+ (MiB|s)\b", r"N \1", shown[0])
