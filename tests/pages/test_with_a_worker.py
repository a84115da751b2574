"""The README's examples and the quickstart, typed as they stand, with a real worker and real containers."""

import hashlib
import os
import re

import pytest
from pages import consoles
from pages.blocks import ROOT, blocks
from pages.claims import the_line, the_lines
from pages.reader import CELERYS_OWN, Reader, here
from ports import free_port

#: A reader's every line starts a program; on a machine with much other work that adds up.
pytestmark = pytest.mark.timeout(600)


def alike(shown: list[str], printed: str) -> bool:
    """True where what was printed is what the page shows; ``…`` is anything. Two streams may change places."""
    pattern = "\n".join(".*".join(re.escape(part) for part in line.split("…")) for line in sorted(shown))
    return re.fullmatch(pattern, "\n".join(sorted(printed.splitlines()))) is not None


def test_the_quickstarts_installation_gives_what_its_next_lines_call(reader):
    """Into an environment of its own; its wheels come from pip's cache where this machine has them."""
    # Some have a cluster that has nothing to do with this.
    reader.env |= {"PATH": os.environ["PATH"], "KUBECONFIG": "/nowhere"}
    (reader.folder / "cellwork").symlink_to(ROOT)
    printed = reader.types_page("docs/quickstart.md")
    assert "docker" in printed["cellwork doctor"]
    assert (reader.folder / "venv/bin/cellwork").exists()


def test_the_quickstart_from_its_tasks_on(reader):
    (tasks,) = blocks("docs/quickstart.md", "python")
    consoles_ = [consoles.lines(block) for block in blocks("docs/quickstart.md", "console")]
    start = the_line("docs/quickstart.md", "cellwork up")
    assert the_line("README.md", "cellwork up") == start
    typed = [line for lines in consoles_ for line in lines if line.output is not None]
    assert [line.typed for line in typed] == the_lines("docs/quickstart.md", "cellwork run", "python -c")
    reader.writes("shop/tasks.py", tasks.text)
    with reader.leaves_running(f"{start} --flower-port {free_port()}"):
        for line in typed:
            printed = reader.types(line.typed)
            assert alike([here(shown) for shown in line.output or ()], printed), f"$ {line.typed}\n{printed}"
        assert "shop.tasks.words" in reader.types("cellwork usage -A shop.tasks")
        for looks in ("cellwork ps -A shop.tasks", the_line("README.md", "cellwork doctor")):
            assert reader.types(f"{looks} && echo well").endswith("well\n")


def test_the_examples_of_the_readme_and_of_the_page_on_logs(reader):
    declared, sent, imported = (block.text for block in blocks("README.md", "python"))
    (reads,) = (block.text for block in blocks("docs/logs.md", "python"))
    start = the_line("README.md", "celery -A shop.tasks worker")
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
    start = the_line("docs/celery.md", "cellwork worker")
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
