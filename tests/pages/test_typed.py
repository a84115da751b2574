"""Every line of a page's console is typed by a test: most of them here, in a world that has what they speak of."""

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from celery import Celery
from httpserver import answering
from otlp import collecting
from pages.blocks import blocks
from pages.claims import nobodys
from pages.reader import Reader
from ports import free_port
from storing_registry import storing
from waiting import wait_until

from cellwork import configure
from cellwork.broker import Broker
from cellwork.deadletter import DeadLetter, DeadLetters

pytestmark = pytest.mark.timeout(600)

#: What the pages' application has, so far as they call it.
SHOP = """
import os
import time

from celery import Celery
from cellwork import Image, configure

app = configure(Celery("shop"), defaults={"image": "python:3.12-slim"})


@app.task
def parse(url):
    print("parsing", url)
    return url.split("/")[2]


@app.task
def packs():
    with open("/tmp/out.csv", "w") as file:
        file.write("1,2")
    while not os.path.exists("/tmp/end"):
        time.sleep(0.1)
    return open("/tmp/in.csv").read()
"""

DECLARED = """

@app.task(image=Image("busybox:stable").run("touch /{name}"))
def declared(): ...
"""

READY = "cellwork worker -A shop.tasks -c 2 -- -l INFO -n {name}@%h"


@pytest.fixture
def shop(reader) -> Reader:
    """A reader whose folder has the application of the pages."""
    reader.writes("shop/tasks.py", SHOP)
    reader.writes("shop/app.py", "from shop.tasks import app")
    return reader


def python(reader: Reader, program: str) -> str:
    reader.writes("program.py", f"from shop.tasks import *\n{program}")
    return reader.succeeds("python program.py").strip()


def test_no_line_of_a_page_is_left_that_no_test_types():
    assert nobodys() == []


def test_the_page_on_the_command_line(shop, gateway):
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"an example")

        def log_message(self, *_):
            """Say nothing."""

    server = ThreadingHTTPServer((gateway, 0), Answers)
    with answering(server), shop.leaves_running(READY.format(name=shop.name), 1):
        page = f"http://{gateway}:{server.server_address[1]}"
        printed = shop.types_page("docs/cli.md", lambda line: line.replace("-qO- https://example.org", f"-qO- {page}"))
    assert [text.splitlines()[-1] for text in printed.values()][0::2] == ["example.org", "an example"]


def test_the_page_on_logs(shop):
    with shop.leaves_running(READY.format(name=shop.name), 1):
        done = python(shop, "r = parse.delay('https://example.org/a')\nr.get(timeout=60)\nprint(r.id)")
        runs = python(shop, "print(packs.delay().id)")
        wait_until(lambda: runs in shop.types("cellwork ps -A shop.tasks"), timeout=60, what="the sandbox")
        shop.writes("in.csv", "3,4")

        def say(line: str) -> str:
            line = line.replace(" ID", f" {done if ' logs ' in line else runs}").replace("[--json]", "--json")
            # It wants a terminal.
            return f"script -qec '{line}' /dev/null <<<exit" if "-it" in line else line

        printed = shop.types_page("docs/logs.md", say)
        shop.types(f"cellwork exec -A shop.tasks {runs} -- touch /tmp/end")  # which ends the sandbox, and this with it
        assert python(shop, f"print(app.AsyncResult({runs!r}).get(timeout=60))") == "3,4"
    assert [text for line, text in printed.items() if " logs " in line and "-" not in line.partition("ID")[2]] == [
        "parsing https://example.org/a\n"
    ]
    assert (shop.folder / "out.csv").read_text() == "1,2"
    assert json.loads(next(text for line, text in printed.items() if " ps " in line))[0]["task_id"] == runs


def test_the_page_on_monitoring(shop):
    shop.env["FLOWER_PORT"] = str(free_port())
    (prices,) = blocks("docs/monitoring.md", "toml")
    shop.writes("prices.toml", prices.text)
    with collecting() as spans:
        with shop.leaves_running(READY.format(name=shop.name), 1):
            python(shop, "parse.delay('https://example.org/a').get(timeout=60)")
            wait_until(lambda: "parse" in shop.types("cellwork usage -A shop.tasks"), timeout=60, what="its usage")
        printed = shop.types_page(
            "docs/monitoring.md",
            lambda line: line.replace("http://collector:4318", spans.env["OTEL_EXPORTER_OTLP_ENDPOINT"]).replace(
                "[--json]", "--json"
            ),
        )
    assert "shop.tasks.parse" in printed["cellwork usage -A shop.tasks shop.tasks.parse"]
    assert (shop.folder / "bill.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_on_images(shop):
    shop.writes("shop/app.py", f"from shop.tasks import *\n{DECLARED.format(name=shop.installation)}")
    try:
        with storing() as registry:
            printed = shop.types_page(
                "docs/images.md", lambda line: line.replace("registry.example:5000", registry.name)
            )
            (pinned,) = json.loads((shop.folder / "images.json").read_text()).values()
            assert pinned.startswith(f"{registry.name}/cellwork/busybox@sha256:")
            assert registry.manifests
    finally:
        shop.writes("shop/app.py", "from shop.tasks import app")
        shop.succeeds("cellwork images -A shop.app prune")
    assert len(printed) == 2


def test_the_commands_of_the_page_on_reliability(shop, cluster, monkeypatch):
    shop.env["KUBECONFIG"] = str(cluster.kubeconfig)
    monkeypatch.setenv("CELERY_BROKER_URL", shop.env["CELERY_BROKER_URL"])
    app = configure(Celery("shop", set_as_current=False), installation=shop.installation)
    broker = Broker(app)
    dropped, *requeued = (letter(broker, app) for _ in range(3))

    def say(line: str) -> str:
        ids = requeued if "requeue" in line else [dropped]
        return line.replace("[--json]", "--json").replace("ID…", " ".join(ids)).replace(" ID", f" {dropped}")

    printed = shop.types_page("docs/reliability.md", say)
    broker.close()
    assert printed["cellwork reap -A shop.app --executor kubernetes"] == "nothing to end\n"
    assert shop.succeeds("cellwork dead -A shop.app list") == "no dead letters\n"


def letter(broker: Broker, app) -> str:
    """A dead letter whose message is a real one; returns its task's id."""
    sent = app.send_task("shop.tasks.parse", ("https://example.org",), queue="nobody")
    DeadLetters(broker).add(
        DeadLetter(
            task="shop.tasks.parse", task_id=sent.id, error="delivered 6 times", deliveries=6, history=(("a", 1),),
            output=None, exchange="", routing_key="docker", message=json.loads(broker.client.lpop("nobody")),
            token=broker.key("token", "none"),
        )
    )  # fmt: skip
    return str(sent.id)


@pytest.fixture
def elsewhere(shop, cluster, broker) -> Callable[[str], str]:
    """The pages' own machines: here, this one."""
    shop.env["KUBECONFIG"] = str(cluster.kubeconfig)
    return lambda line: line.replace("rediss://:…@redis.example:6380/0", f"{broker}/6").replace(
        "rediss://:…@redis.example:6380/1", f"{broker}/7"
    )


def test_the_page_on_scaling(shop, elsewhere):
    shop.types_page("docs/scaling.md", elsewhere)


def test_the_page_on_upgrading(shop):
    shop.types_page("docs/upgrading.md")


def test_the_page_on_gpus(shop):
    (shop.folder / "cellwork.toml").write_text(blocks("docs/gpus.md", "toml")[0].text)
    shop.types_page("docs/gpus.md")


def test_the_page_on_pods(shop, elsewhere):
    shop.types_page("docs/kubernetes.md", elsewhere)
