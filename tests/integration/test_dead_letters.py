"""Tasks that no worker survives: they stop after max_deliveries, and somebody can look at them and send them again."""

import json
import subprocess
import sys
from functools import partial
from signal import SIGQUIT

import pytest
import redis
from conftest import PROJECT
from waiting import wait_until

from cellwork.errors import Poisoned

TIMEOUT = 60


@pytest.fixture
def client(broker) -> redis.Redis:
    return redis.Redis.from_url(f"{broker}/0")


def cellwork(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "cellwork", "dead", "-A", "shop.app", *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)


@pytest.fixture
def poison(shop, start_worker, client, engine, installation):
    """A task whose worker died with it five times already, with the sandbox of the last time; and a live worker."""
    result = shop.tasks.echo.apply_async(("last words",), queue="poison")
    key = f"cellwork:{installation}:token:cellwork-{result.id}-0"
    history = "".join(f"dead{i}@test {1_700_000_000_000 + i}\n" for i in range(5))
    client.hset(key, mapping={"owner": "dead.1@nowhere", "until": "0", "deliveries": "5", "history": history})
    container = engine.containers.run(
        "cellwork/busybox:base",
        ["sh", "-c", f"echo it began; echo '{'0' * 32} {{}}'; echo it dies"],
        name=f"cellwork-{result.id}-0",
        labels={
            "cellwork.installation": installation,
            "cellwork.worker": "dead4@test",
            # Without it the next worker's reaper ends it: nobody would ever ask for it.
            "cellwork.task-id": result.id,
        },
        network_mode="none",
        detach=True,
    )
    container.wait()
    worker = start_worker("-c", "1", "-Q", "poison", name="survivor")
    yield result
    worker.stop()


def test_a_task_past_max_deliveries_fails_is_shown_and_can_be_sent_again(poison, shop, client):
    with pytest.raises(Poisoned, match=rf"{poison.id}\]: delivered 6 times .* to dead0@test, .*survivor@test"):
        poison.get(timeout=TIMEOUT)
    wait_until(lambda: not client.exists("unacked"), what="its message to be acknowledged")

    (listed,) = json.loads(cellwork("list", "--json").stdout)
    assert (listed["task_id"], listed["task"], listed["deliveries"]) == (poison.id, "shop.tasks.echo", 6)
    assert listed["output"] == "it began\nit dies\n", "without the runner's frames"
    assert [worker for worker, _ in listed["history"]] == [*(f"dead{i}@test" for i in range(5)), "survivor@test"]
    assert poison.id in cellwork("list").stdout
    shown = cellwork("show", poison.id).stdout
    assert "it dies" in shown
    assert "last words" in shown

    (requeued,) = json.loads(cellwork("requeue", "--json", poison.id).stdout)
    assert requeued == {"task_id": poison.id, "task": "shop.tasks.echo", "done": "sent to poison"}
    outcome = partial(shop.app.app.backend.get_task_meta, poison.id, cache=False)
    wait_until(lambda: outcome()["result"] == "last words", timeout=TIMEOUT, what="the task to have run")
    assert json.loads(cellwork("list", "--json").stdout) == []


def test_a_dead_letter_can_be_dropped_and_one_that_is_not_there_is_named(poison, client):
    with pytest.raises(Poisoned):
        poison.get(timeout=TIMEOUT)
    assert json.loads(cellwork("drop", "--json", poison.id).stdout)[0]["done"] == "dropped"
    assert cellwork("list").stdout == "no dead letters\n"
    missing = cellwork("show", poison.id)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert f"{poison.id}: no dead letter" in missing.stderr


def test_what_a_worker_gives_back_in_good_order_does_not_count(shop, start_worker, containers):
    result = shop.tasks.sleep.apply_async((3,), queue="returns")

    def runs() -> bool:
        # Asked of the engine: a worker that has just begun may give no answer for as long as the task takes.
        return any(result.id in name and c["State"] == "running" for c in containers() for name in c["Names"])

    for number in range(2):
        worker = start_worker("-c", "1", "-Q", "returns", name=f"returns{number}", CELLWORK_MAX_DELIVERIES="1")
        wait_until(runs, timeout=TIMEOUT, what="it to run")
        worker.signal(SIGQUIT)
        worker.wait()
    last = start_worker("-c", "1", "-Q", "returns", name="returns-last", CELLWORK_MAX_DELIVERIES="1")
    assert result.get(timeout=TIMEOUT) == 3
    last.stop()
