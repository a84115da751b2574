"""Shares of a queue: keys in turn, caps over all workers, and no message lost or run twice for it."""

import time
import uuid
from itertools import pairwise
from queue import Empty
from statistics import median

import pytest
import redis
from celery import Celery
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from waiting import wait_until

from cellwork import configure

TIMEOUT = 60


class Line:
    """A queue of its own, as producers and workers have it."""

    def __init__(self, broker: str, name: str | None = None, **given) -> None:
        self.name = name or f"line-{uuid.uuid4().hex[:8]}"
        self.app = configure(Celery("line", set_as_current=False), installation=self.name, unserved="off", **given)
        self.app.conf.update(broker_url=f"{broker}/0", result_backend=f"{broker}/1", task_default_queue=self.name)
        options = {"unacked_key": f"{self.name}-u", "unacked_index_key": f"{self.name}-i", "visibility_timeout": 5}
        self.app.conf.broker_transport_options = {**options, "global_keyprefix": "pre:"}
        self.connection = self.app.connection_for_read()
        self.channel = self.connection.channel()
        self.client = redis.Redis.from_url(f"{broker}/0")
        self.taken: list = []
        self.channel.queue_declare(self.name)
        self.channel.basic_consume(self.name, False, self.taken.append, "here")

    def put(self, task: str, fair_key: str | None = None, max_running: int | None = None) -> None:
        self.app.send_task(task, fair_key=fair_key, max_running=max_running)

    def take(self):
        """A message; None: there is none that may be taken."""
        try:
            self.channel._take()
        except Empty:
            return None
        return self.taken.pop()

    def order(self, count: int) -> list[str]:
        return [self.take().headers["task"] for _ in range(count)]

    def waiting(self) -> int:
        return self.client.llen(f"pre:{self.name}")

    def lose(self) -> None:
        """The worker died: all that it had is delivered again."""
        index = f"pre:{self.name}-i"
        for tag in self.client.zrange(index, 0, -1):
            self.client.zadd(index, {tag: 0})
        self.channel.qos._delivered.clear()
        self.channel.qos.restore_visible(num=1000, interval=1)

    def left(self) -> list[bytes]:
        return [
            key for key in self.client.scan_iter(match=f"*{self.name}*") if b"wake" not in key and b"kombu" not in key
        ]

    def close(self) -> None:
        self.connection.close()
        self.app.close()
        keys = list(self.client.scan_iter(match=f"*{self.name}*"))
        self.client.delete(*keys, "none")
        self.client.close()


@pytest.fixture
def line(broker, monkeypatch):
    # They would win over what the app says.
    monkeypatch.delenv("CELERY_BROKER_URL")
    monkeypatch.delenv("CELERY_RESULT_BACKEND")
    lines = []

    def make(**given) -> Line:
        lines.append(Line(broker, **given))
        return lines[-1]

    yield make
    for one in lines:
        one.close()


def test_keys_are_taken_from_in_turn_and_the_queue_is_as_long_as_ever(line):
    one = line()
    for number in range(3):
        one.put(f"a{number}", "a")
    one.put("b0", "b")
    one.put("plain")
    one.put("c0", "c")
    one.put("b1", "b")
    assert one.waiting() == 7
    assert one.order(7) == ["a0", "b0", "c0", "a1", "plain", "b1", "a2"]
    assert one.take() is None
    assert one.waiting() == 0


def test_a_message_comes_with_a_token_and_the_queue_is_looked_at_again_only_where_it_had_more(line):
    one = line()
    one.put("first")
    one.put("fair", "a")
    tokens = f"pre:{one.name}.cellwork-wake"
    assert one.client.llen(tokens) == 2
    assert 0 < one.client.ttl(tokens) <= 60
    assert (one.take().headers["task"], one.channel._more) == ("first", True)
    assert (one.take().headers["task"], one.channel._more) == ("fair", False)


def test_no_more_than_may_run_are_taken_and_others_go_before_those_that_wait(line):
    one = line(key_max_running=2)
    for number in range(3):
        one.put(f"a{number}", "a")
    one.put("plain")
    one.put("capped", None, 1)
    one.put("capped", None, 1)
    first, second = one.take(), one.take()
    assert [first.headers["task"], second.headers["task"]] == ["a0", "capped"]
    third, fourth = one.take(), one.take()
    assert [third.headers["task"], fourth.headers["task"]] == ["a1", "plain"]
    assert one.take() is None
    assert one.waiting() == 2
    first.ack()
    assert one.take().headers["task"] == "a2"
    assert one.take() is None
    second.reject()
    assert one.take().headers["task"] == "capped"


def test_caps_hold_over_all_workers_of_a_queue_and_the_next_goes_to_whoever_is_free(line):
    one = line(key_max_running=2)
    other = line(name=one.name, key_max_running=2)
    for _ in range(3):
        one.put("capped", None, 1)
        one.put("keyed", "a")
    taken = [worker.take() for worker in (one, other, other, one, other)]
    assert [message and message.headers["task"] for message in taken] == ["capped", "keyed", "keyed", None, None]
    taken[0].ack()
    assert other.take().headers["task"] == "capped"
    assert one.take() is None
    taken[2].ack()
    assert one.take().headers["task"] == "keyed"
    assert one.waiting() == 1


def test_what_a_dead_worker_had_comes_back_first_and_counts_for_its_cap_again(line):
    one = line()
    for _ in range(3):
        one.put("capped", None, 1)
    lost = one.take()
    assert one.take() is None
    one.lose()
    assert one.waiting() == 3
    again = one.take()
    assert (again.delivery_tag, again.headers["redelivered"]) == (lost.delivery_tag, True)
    assert one.take() is None, "it is one of those that run"
    again.ack()
    assert one.take().delivery_tag != lost.delivery_tag


def test_a_purged_queue_leaves_nothing_and_a_queue_that_somebody_deleted_still_works(line):
    one = line()
    for key in ("a", "b", None):
        one.put("x", key)
    assert one.channel.queue_purge(one.name) == 3
    assert one.left() == []
    one.put("y", "a")
    one.client.delete(*[key for key in one.left() if b"group" in key or b"ring" in key])
    one.put("z", "b")
    assert one.take().headers["task"] == "z"
    assert one.take() is None
    assert one.waiting() == 0


def test_basic_get_takes_a_message_and_no_placeholder(line):
    one = line()
    one.put("x", "a")
    assert one.channel.basic_get(one.name, no_ack=True).headers["task"] == "x"
    assert one.channel.basic_get(one.name, no_ack=True) is None


def test_a_key_that_is_no_key_is_refused_when_the_task_is_sent(line):
    one = line()
    for wrong in ({"fair_key": ""}, {"fair_key": 7}, {"fair_key": "\ud800"}, {"max_running": 0}):
        with pytest.raises(Exception, match=next(iter(wrong))):
            one.app.send_task("x", **wrong)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(["a", "b", None]), st.sampled_from([1, 2, None])),
        st.tuples(st.just("take")),
        st.tuples(st.just("ack"), st.integers(0, 9)),
        st.tuples(st.just("lose")),
    ),
    max_size=40,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_whatever_happens_none_is_lost_none_comes_twice_and_no_cap_is_passed(line, steps):
    one = line(key_max_running=2)
    waiting, running = 0, []

    def take() -> None:
        if (message := one.take()) is not None:
            running.append(message)
            caps = [cap for m in running for cap in m.headers["cellwork"].get("share", {}).get("caps", ())]
            assert all(caps.count(cap) <= cap[1] for cap in caps)

    for what, *more in steps:
        had = len(running)
        if what == "put":
            # Of one task each: a cap that a later call changes holds from then on.
            one.put(f"t{more[1]}", *more)
            waiting += 1
        elif what == "take":
            take()
        elif what == "ack" and running:
            running.pop(more[0] % had).ack()
            had -= 1
        elif what == "lose":
            running.clear()
            one.lose()
        waiting += had - len(running)
        assert one.waiting() == waiting
    while waiting or running:
        while running:
            running.pop().ack()
        take()
        waiting -= len(running)
        assert running or not waiting
    assert one.left() == []


@pytest.fixture(scope="module")
def fair_worker(start_worker):
    worker = start_worker("-c", "2", "-Q", "fair", name="fair")
    yield worker
    worker.stop()


def test_a_key_with_few_tasks_hardly_waits_for_one_with_many(shop, fair_worker):
    def waits(count: int) -> list[float]:
        sent = [(time.time(), shop.tasks.nap.apply_async((0.05,), queue="fair", fair_key="few")) for _ in range(count)]
        return sorted(result.get(timeout=TIMEOUT)[0] - at for at, result in sent)

    def longest() -> float:
        """Of ten, in the middle one of three rounds: another program may have the processor in one of them."""
        return median(waits(10)[-1] for _ in range(3))

    waits(2)
    alone = longest()
    for _ in range(500):
        shop.tasks.nap.apply_async((0.05,), queue="fair", fair_key="many", ignore_result=True)
    together = longest()
    with shop.app.app.connection_for_write() as connection:
        assert connection.default_channel.queue_purge("fair") > 300, "the many still wait"
    assert together < 3 * alone


def test_no_more_of_a_task_run_at_once_than_may_and_the_next_follows_at_once(shop, fair_worker):
    results = [shop.tasks.nap.apply_async((0.2,), queue="fair", max_running=1) for _ in range(5)]
    other = shop.tasks.nap.apply_async((0.01,), queue="fair")
    spans = sorted(result.get(timeout=TIMEOUT) for result in results)
    gaps = [later - earlier for (_, earlier), (later, _) in pairwise(spans)]
    assert min(gaps) > 0
    assert sorted(gaps)[2] < 0.5, "woken, not found at the next look"
    assert other.get(timeout=TIMEOUT)[0] < spans[-1][0]
    wait_until(lambda: not fair_worker.inspect("active"), what="the worker to be idle")
