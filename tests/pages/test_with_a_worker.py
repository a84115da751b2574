"""The README's examples and the quickstart, typed as they stand, with a real worker and real containers.

Only images are others: those that scripts/base-images.sh makes, because registries are not to be had everywhere. The
quickstart's installation is not repeated here: that is what every stage of the test run begins with.
"""

import hashlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pages import consoles
from pages.blocks import blocks
from ports import free_port
from waiting import wait_until

#: A reader's every line starts a program; on a machine with much other work that adds up.
pytestmark = pytest.mark.timeout(240)

IMAGES = {
    "python:3.12-slim": "cellwork/python:base",
    "busybox:stable": "cellwork/busybox:base",
    "alpine:3": "cellwork/busybox:base",
}


def here(text: str) -> str:
    """An example with images that are there."""
    for image, ours in IMAGES.items():
        text = text.replace(image, ours)
    return text


#: What a Celery worker ends with after Ctrl-C (celery.apps.worker, 5.7).
CELERYS_OWN = 1


class Reader:
    """Somebody in a folder of his own, with a terminal."""

    def __init__(self, folder: Path, broker: str, name: str) -> None:
        self.folder = folder
        self.log = folder / "worker.log"
        self.installation = f"tests-pages-{name}-{os.getpid()}"
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("CELERY_", "CELLWORK_"))},
            # Workers of other tests take from the first two.
            "CELERY_BROKER_URL": f"{broker}/6",
            "CELERY_RESULT_BACKEND": f"{broker}/7",
            "CELLWORK_INSTALLATION": self.installation,
            "PATH": consoles.path(),
            "COLUMNS": "200",
        }

    def writes(self, path: str, text: str) -> None:
        (self.folder / path).parent.mkdir(exist_ok=True)
        (self.folder / path).write_text(here(text))

    def types(self, line: str) -> str:
        """What a line prints."""
        ran = subprocess.run(
            ["bash", "-c", here(line)],
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=90,
            check=False,
        )
        return ran.stdout

    @contextmanager
    def leaves_running(self, line: str, status: int = 0) -> Iterator[None]:
        """A worker, until Ctrl-C, after which it ends with this status."""
        with self.log.open("wb") as out:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {here(line)}"], cwd=self.folder, env=self.env, stdout=out, stderr=out
            )
        try:
            wait_until(
                lambda: " ready." in self.log.read_text() or process.poll() is not None,
                timeout=60,
                what="the worker to be ready",
            )
            assert process.poll() is None, self.log.read_text()
            yield
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == status, self.log.read_text()


@pytest.fixture
def reader(request, broker, engine, tmp_path) -> Iterator[Reader]:
    somebody = Reader(tmp_path, broker, request.node.name[:30].replace("_", "-"))
    yield somebody
    left = engine.api.containers(all=True, filters={"label": f"cellwork.installation={somebody.installation}"})
    assert left == []


def alike(shown: list[str], printed: str) -> bool:
    """True where what was printed is what the page shows; ``…`` is anything. Two streams may change places."""
    pattern = "\n".join(".*".join(re.escape(part) for part in line.split("…")) for line in sorted(shown))
    return re.fullmatch(pattern, "\n".join(sorted(printed.splitlines()))) is not None


def test_the_quickstart_from_its_tasks_on(reader):
    (tasks,) = blocks("docs/quickstart.md", "python")
    consoles_ = [consoles.lines(block) for block in blocks("docs/quickstart.md", "console")]
    (start,) = [line.typed for lines in consoles_ for line in lines if line.typed.startswith("cellwork up")]
    typed = [line for lines in consoles_ for line in lines if line.output is not None]
    assert len(typed) == 5
    reader.writes("shop/tasks.py", tasks.text)
    with reader.leaves_running(f"{start} --flower-port {free_port()}"):
        for line in typed:
            printed = reader.types(line.typed)
            assert alike([here(shown) for shown in line.output or ()], printed), f"$ {line.typed}\n{printed}"
        assert "shop.tasks.words" in reader.types("cellwork usage -A shop.tasks")
        for looks in ("cellwork ps -A shop.tasks", "cellwork doctor -A shop.tasks"):
            assert reader.types(f"{looks} && echo well").endswith("well\n")


def test_the_examples_of_the_readme_and_of_the_page_on_logs(reader):
    declared, sent, imported = (block.text for block in blocks("README.md", "python"))
    (reads,) = (block.text for block in blocks("docs/logs.md", "python"))
    start = next(
        line.typed.split("#")[0].strip()
        for block in blocks("README.md", "console")
        for line in consoles.lines(block)
        if line.typed.startswith("celery -A shop.tasks worker")
    )
    assert "redis://localhost:6379" in declared, "CELERY_BROKER_URL wins over it"
    results = [re.sub(r"\s*#.*", "", line) for line in sent.splitlines()]
    shown = re.sub(r"^    (line\.time.*)$", r"    print([\1])", reads, flags=re.MULTILINE)
    reader.writes(
        "send.py",
        "from shop.tasks import app, checksum, parse\n"
        f"results = [{', '.join(results)}, checksum.delay('cellwork')]\n"
        "for result in results:\n    print(result.get(timeout=60))\n"
        f"task_id = app.send_task('shop.says', ('well',)).id\n{shown}",
    )
    says = '\n\n@app.task(image="python:3.12-slim", name="shop.says")\ndef says(word):\n    print(word)\n'
    reader.writes("shop/tasks.py", f"{imported}\n{declared}{says}")
    with reader.leaves_running(f"{start} -n readme-{os.getpid()}@%h -l INFO", status=CELERYS_OWN):
        printed = reader.types("python send.py").splitlines()
    assert printed[:2] == ["example.org", "example.org"], printed
    assert printed[2] == f"{hashlib.sha256(b'cellwork').hexdigest()}  -", printed
    assert re.fullmatch(r"\[datetime\.datetime\(.*\), 'stdout', 'well', 0\]", printed[-1]), printed


def test_an_application_that_was_there_before_has_its_long_tasks_run_once_beside_a_cellwork_worker(reader, broker):
    """The page's two applications, each with its worker and its database, and the short timeout that would show it."""
    cells, before = (
        block.text.replace("redis://localhost:6379", broker) for block in blocks("docs/celery.md", "python")
    )
    (start,) = [line.typed for block in blocks("docs/celery.md", "console") for line in consoles.lines(block)]
    del reader.env["CELERY_BROKER_URL"], reader.env["CELERY_RESULT_BACKEND"]
    reader.env["CELLWORK_VISIBILITY_TIMEOUT"] = "1"
    reader.writes("shop/tasks.py", cells)
    waits = '\n\n@app.task(acks_late=True)\ndef waits():\n    print("began", flush=True)\n    time.sleep(4)\n'
    reader.writes("billing.py", f"import time\n{before}{waits}")
    reader.writes(
        "both.py",
        "import billing\n"
        "waits = billing.waits.delay()\n"
        "text = billing.cells.AsyncResult(billing.invoice.delay('a b c').get(timeout=60))\n"
        "print(text.get(timeout=60), waits.get(timeout=60))\n",
    )
    plain = Reader(reader.folder, broker, "plain")
    plain.env, plain.log = reader.env, reader.folder / "plain.log"
    name = f"-l INFO -n {{}}-{os.getpid()}@%h"
    with (
        plain.leaves_running(f"celery -A billing worker -P threads -c 2 {name.format('plain')}", status=CELERYS_OWN),
        reader.leaves_running(f"{start} -- {name.format('cells')}", status=CELERYS_OWN),
    ):
        assert reader.types("python both.py") == "3 None\n"
    assert plain.log.read_text().count("began") == 1
