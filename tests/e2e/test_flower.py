"""Flower as a person uses it: a real browser on real pages, with a real worker behind them."""

import base64
import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator

import pytest
from browser import chromium
from celery.exceptions import TimeLimitExceeded
from conftest import PROJECT
from playwright.sync_api import Page, expect
from ports import free_port
from waiting import wait_until

from cellwork.broker import Broker
from cellwork.deadletter import DeadLetter, DeadLetters

TIMEOUT = 60
LOGIN, TOKEN = "someone:secret", "a-token-for-metrics"

#: Where it is run as markup, the page says so.
INJECTION = '"\'></script><img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'

expect.set_options(timeout=20_000)


@pytest.fixture(scope="module")
def worker(start_worker, shop):
    """The only one that takes from the queue: what is seen here is asked of it."""
    control, shared = shop.app.app.control, ["shared@test"]
    control.cancel_consumer("docker", destination=shared)  # it may run already, for other tests
    started = start_worker("-c", "3", "-E", name="seen")
    yield started
    started.stop()
    control.add_consumer("docker", destination=shared)


@pytest.fixture(scope="module")
def flower(worker, tmp_path_factory) -> Iterator[str]:
    """Its address."""
    port = free_port()
    log = tmp_path_factory.mktemp("flower") / "flower.log"
    arguments = ["--address=127.0.0.1", f"--port={port}", f"--basic-auth={LOGIN}"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "shop.app", "flower", *arguments],
            cwd=PROJECT,
            env={**os.environ, "CELLWORK_METRICS_TOKEN": TOKEN},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: status(f"{address}/healthcheck") == 200, timeout=30, what="Flower")
        # It hears of the worker by its heartbeats.
        wait_until(lambda: worker.name in ask(f"{address}/workers?json=1")[1], timeout=30, what="its first event")
        yield address
        assert process.poll() is None, log.read_text()
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser, flower) -> Iterator[Page]:
    """A page that must not complain, and on which nothing injected must run."""
    name, _, password = LOGIN.partition(":")
    context = browser.new_context(base_url=flower, http_credentials={"username": name, "password": password})
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda told: complaints.append(told.text) if told.type == "error" else None)
    # So that the browser knows for which paths the login is: Flower's API does not ask for it.
    opened.goto("/")
    yield opened
    assert opened.evaluate("window.hacked") is None, f"something injected ran on {opened.url}"
    context.close()
    assert complaints == []


def ask(url: str, *, login: bool = True, **headers: str) -> tuple[int, str]:
    if login:
        headers["Authorization"] = "Basic " + base64.b64encode(LOGIN.encode()).decode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def status(url: str, **options) -> int:
    try:
        return ask(url, **options)[0]
    except OSError:
        return 0


def known(flower: str, task_id: str, state: str) -> None:
    """Wait until Flower has heard that the task is in that state."""
    path = f"{flower}/api/task/info/{urllib.parse.quote(task_id, safe='')}"
    wait_until(lambda: f'"state": "{state}"' in ask(path)[1], timeout=TIMEOUT, what=f"Flower to hear of {state}")


@pytest.mark.parametrize("path", ["sandboxes", "sandboxes/rows", "dead", "logs/x", "logs/x/events", "metrics", "tasks"])
def test_without_a_login_nothing_is_shown(flower, path):
    assert status(f"{flower}/{path}", login=False) == 401


def test_metrics_are_for_who_has_the_login_or_the_token(flower, shop):
    shop.tasks.add.delay(1, 2).get(timeout=TIMEOUT)
    told = re.compile(r'^cellwork_outcomes_total\{.*outcome="success",task="shop.tasks.add".*\} [1-9]', re.MULTILINE)
    wait_until(lambda: told.search(ask(f"{flower}/metrics")[1]), what="the metric")
    bearer = {"login": False, "Authorization": f"Bearer {TOKEN}"}
    assert told.search(ask(f"{flower}/metrics", **bearer)[1])
    assert status(f"{flower}/metrics", login=False, Authorization="Bearer wrong") == 401
    assert status(f"{flower}/tasks", **bearer) == 401, "the token is for metrics only"


def test_a_tasks_page_and_the_list_show_its_sandbox(flower, shop, worker, page):
    result = shop.tasks.busy.delay(0.1, 20 << 20)
    result.get(timeout=TIMEOUT)
    known(flower, result.id, "SUCCESS")
    page.goto(f"/task/{result.id}")
    shown = {row.locator("dt").inner_text(): row for row in page.locator(".detail-row").all()}
    for name, value in (
        ("Executor", "docker"),
        ("Image", "cellwork/python:base"),
        ("Sandbox", f"cellwork-{result.id}-0"),
        ("Host", socket.gethostname()),
        ("Route", "docker"),
        ("Route reason", "default"),
        ("Outcome", "success"),
        ("Memory limit", "128 MiB"),
    ):
        expect(shown[name].locator("dd")).to_have_text(value)
    expect(shown["Image digest"].locator("dd")).to_contain_text("sha256:")
    expect(shown["Image size"].locator("dd")).to_contain_text("MiB")
    expect(shown["Peak memory"].locator("dd")).to_have_text(re.compile(r"\d+(\.\d+)? MiB"))
    for name in ("CPU time", "Time queued", "Time to start", "Time running"):
        expect(shown[name].locator("dd")).to_have_text(re.compile(r"\d.* m?s"))
    page.goto(f"/worker/{worker.name}")
    expect(page.locator("#tab-pool")).to_contain_text("Docker")
    expect(page.locator("#tab-pool")).to_contain_text("Warm sandboxes")


def test_the_list_of_tasks_shows_sandbox_route_times_and_failure(flower, shop, page):
    result = shop.commands.status.delay(3)
    result.get(timeout=TIMEOUT, propagate=False)
    known(flower, result.id, "FAILURE")
    page.goto("/tasks")
    row = page.locator(f"[id='{result.id}']")
    expect(row).to_contain_text("command-failed")
    titles = [title.strip() for title in page.locator(".dataTables_scrollHead th").all_text_contents()]
    shown = dict(zip(titles, row.locator("td").all_text_contents(), strict=True))
    assert shown["Sandbox"] == f"cellwork-{result.id}-0"
    assert (shown["Executor"], shown["Image"], shown["Exit status"]) == ("docker", "cellwork/busybox:base", "3")
    assert (shown["Host"], shown["Route"], shown["Route reason"]) == (socket.gethostname(), "docker", "default")
    assert shown["Image digest"].startswith("sha256:")
    for name in ("Time queued", "Time to start", "Time running"):
        assert shown[name].endswith("s"), name


def test_a_log_is_followed_live_and_a_task_is_terminated_by_its_button(flower, shop, page, nothing_left):
    result = shop.talk.says_and_waits.delay(300)
    known(flower, result.id, "STARTED")
    page.goto("/sandboxes")
    row = page.locator(f"tr[data-task-id='{result.id}']")
    expect(row).to_contain_text("shop.talk.says_and_waits")
    expect(row).to_contain_text("running")
    expect(row).to_contain_text(re.compile(r"\d %.*MiB / 128 MiB", re.DOTALL))
    row.get_by_role("link", name="Logs").click()
    lines, state = page.locator("#cellwork-lines"), page.locator("#cellwork-status")
    expect(lines).to_have_text("before")
    expect(state).to_have_text("Following")
    other = page.context.new_page()
    other.goto(f"/task/{result.id}")
    other.get_by_role("button", name="Terminate").click()
    wait_until(lambda: result.state == "REVOKED", timeout=TIMEOUT, what="the task to be revoked")
    nothing_left()
    expect(state).to_have_text("Ended")
    expect(lines).to_have_text("before")


def test_lines_come_in_their_order_and_the_page_knows_the_end(flower, shop, page):
    result = shop.talk.talks.delay()
    page.goto(f"/logs/{result.id}")
    expect(page.locator("#cellwork-status")).to_have_text("Ended")
    assert "one" in page.locator(".cellwork-stdout").all_inner_texts()[0]
    assert "two" in page.locator(".cellwork-stderr").all_inner_texts()[0]
    page.get_by_text(result.id).click()
    expect(page).to_have_url(re.compile(f"/task/{result.id}$"))


def test_the_time_limit_button_holds_for_what_starts_after_it(flower, shop, worker, page):
    page.goto(f"/worker/{worker.name}?limit=1000")  # it shows fifty of its tasks else
    page.get_by_role("tab", name="Limits").click()
    row = page.locator("tr", has=page.locator("[id='task-timeout-hard-shop.tasks.stubborn']"))
    row.get_by_label("Timeout for").fill("1")
    row.get_by_role("button", name="Hard").click()
    expect(page.locator("#toast-container")).to_contain_text("time limits set successfully")
    with pytest.raises(TimeLimitExceeded):
        shop.tasks.stubborn.delay(300).get(timeout=TIMEOUT)


def test_nothing_that_a_task_says_runs_as_a_script(flower, shop, page):
    printed = shop.talk.repeats.apply_async((INJECTION,), task_id=INJECTION.replace("/", "|"))
    failed = shop.tasks.fail_builtin.delay(INJECTION)
    assert printed.get(timeout=TIMEOUT) == INJECTION
    failed.get(timeout=TIMEOUT, propagate=False)
    # Whoever can send tasks can also send events.
    fields = dict.fromkeys(("name", "args", "kwargs", "executor", "image", "sandbox", "reason", "outcome"), INJECTION)
    with shop.app.app.events.default_dispatcher(hostname="forged@test") as dispatcher:
        dispatcher.send("task-received", uuid="forged", **fields)
        dispatcher.send("task-failed", uuid="forged", exception=INJECTION, traceback=INJECTION, peak_memory_bytes=[])
    for task_id, state in ((printed.id, "SUCCESS"), (failed.id, "FAILURE"), ("forged", "FAILURE")):
        known(flower, task_id, state)
        page.goto(f"/task/{urllib.parse.quote(task_id, safe='')}")
        expect(page.locator("#task-page")).to_contain_text("onerror")
    page.goto(f"/logs/{urllib.parse.quote(printed.id, safe='')}")
    expect(page.locator("#cellwork-status")).to_have_text("Ended")
    expect(page.locator("#cellwork-lines")).to_contain_text(INJECTION)
    page.goto("/tasks")
    expect(page.locator("#tasks-table")).to_contain_text("onerror")


def test_a_hostile_id_among_the_running_sandboxes_is_text(flower, shop, page, nothing_left):
    result = shop.tasks.sleep.apply_async((300,), task_id="<img src=x onerror=window.hacked=1>")
    page.goto("/sandboxes")
    expect(page.locator("#cellwork-rows")).to_contain_text("<img src")
    result.revoke(terminate=True, signal="SIGKILL")
    expect(page.locator("#cellwork-rows")).to_have_text("No sandbox runs.")
    nothing_left()


@pytest.fixture
def letter(shop) -> Iterator[DeadLetter]:
    """A dead letter whose message is real, and whose words are hostile."""
    result = shop.tasks.echo.apply_async((INJECTION,), queue="nobody")
    broker = Broker(shop.app.app)
    letters = DeadLetters(broker)
    message = json.loads(broker.client.lpop("nobody"))
    made = DeadLetter(
        task="shop.tasks.echo",
        task_id=result.id,
        error=INJECTION,
        deliveries=6,
        history=((INJECTION, 1),),
        output=INJECTION,
        exchange="",
        routing_key="docker",
        message=message,
        token=broker.key("token", "none"),
    )
    letters.add(made)
    yield made
    letters.drop(made)
    broker.close()


def test_a_dead_letter_is_shown_and_sent_again_by_its_button_only(flower, shop, page, letter):
    post = urllib.parse.urlencode({"task_id": letter.task_id, "do": "requeue"}).encode()
    headers = {"Authorization": "Basic " + base64.b64encode(LOGIN.encode()).decode()}
    with pytest.raises(urllib.error.HTTPError, match="403") as refused:
        urllib.request.urlopen(urllib.request.Request(f"{flower}/dead", data=post, headers=headers), timeout=10)
    refused.value.close()
    page.goto("/dead")
    section = page.locator(f"section[data-task-id='{letter.task_id}']")
    expect(section).to_contain_text("onerror")
    section.get_by_role("button", name="Requeue").click()
    expect(page.locator("main")).to_contain_text("No dead letters.")
    assert shop.app.app.AsyncResult(letter.task_id).get(timeout=TIMEOUT) == INJECTION
