"""The router's decision: who is heard first, what rules and thresholds say, and why."""

from typing import Any

import pytest
from celery import Celery

from cellwork import configure, router
from cellwork import spec as specs
from cellwork.errors import InvalidSetting, NoWorker
from cellwork.routing import Asked, Route, parameters, parse_heavy, parse_rules, route
from cellwork.traffic import Snapshot

RULES = parse_rules(
    [
        {"match": {"task": "ml.small.*"}, "executor": "docker", "queue": "small"},
        {"match": {"task": "ml.*", "memory": ">=8g"}, "executor": "kubernetes"},
        {"match": {"args.rows": ">1000"}, "executor": "kubernetes", "queue": "wide"},
        {"match": {"args.0": "all"}, "executor": "process"},
        {"match": {"queue": "gpu*", "gpus": ">0"}, "executor": "kubernetes"},
    ]
)
HEAVY = parse_heavy({"cpus": 4, "memory": "4g", "gpus": 0, "time_limit": 3600})


def asked(name: str = "x", queue: str | None = None, **more: Any) -> Asked:
    options = {key: more.pop(key) for key in list(more) if key in specs.FIELDS}
    spec = specs.parse(name, options)
    return Asked(name, declared=spec, spec=spec, queue=queue, **more)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (asked("celery.backend_cleanup", memory="64g"), ("inline", None, "Celery's own task")),
        (asked("x"), ("docker", None, "default")),
        (asked("x", executor="process"), ("process", None, "executor='process' on the task")),
        (asked("x", node_selector={"gpu": "a100"}), ("kubernetes", "kubernetes", "node_selector is for pods")),
        (asked("x", executor="kubernetes"), ("kubernetes", "kubernetes", "executor='kubernetes' on the task")),
        (asked("x", queue="kubernetes"), ("kubernetes", None, "queue='kubernetes'")),
        (asked("x", queue="mine", memory="5g"), ("kubernetes", None, "memory 5 GiB > 4 GiB")),
        (asked("ml.train", memory="8g"), ("kubernetes", "kubernetes", "rule 2 (task=ml.*, memory=>=8g)")),
        (asked("ml.small.x", memory="32g"), ("docker", "small", "rule 1 (task=ml.small.*)")),
        (asked("ml.train", memory="4g"), ("docker", None, "default")),
        (asked("x", kwargs={"rows": 1001}), ("kubernetes", "wide", "rule 3 (args.rows=>1000)")),
        (asked("x", kwargs={"rows": "many"}), ("docker", None, "default")),
        (asked("x", args=["all"]), ("process", None, "rule 4 (args.0=all)")),
        (asked("x", queue="gpu-1", gpus=1), ("kubernetes", None, "rule 5 (queue=gpu*, gpus=>0)")),
        (asked("x", memory="32g"), ("kubernetes", "kubernetes", "memory 32 GiB > 4 GiB")),
        (asked("x", cpus=4.5), ("kubernetes", "kubernetes", "cpus 4.5 > 4")),
        (asked("x", gpus=1), ("kubernetes", "kubernetes", "gpus 1 > 0")),
        (asked("x", time_limit=7200), ("kubernetes", "kubernetes", "time_limit 7200 s > 3600 s")),
        (asked("x", time_limit=3600, cpus=4, memory="4g"), ("docker", None, "default")),
    ],
)
def test_the_first_that_says_something_decides(task, expected):
    decided = route(task, RULES, HEAVY)
    assert (decided.executor, decided.queue, decided.reason) == expected


def test_an_argument_has_its_name_however_it_is_passed_where_the_task_is_known():
    def body(name, rows=1, *, wide=False): ...

    one = app().task(name="unit.named_arguments", executor="inline")(body)
    names = parameters(one)
    assert names == ("name", "rows")
    for call in ({"args": ["a", 1001]}, {"args": ["a"], "kwargs": {"rows": 1001}}):
        assert route(asked("x", parameters=names, **call), RULES).queue == "wide"
    for call in ({"args": ["a"]}, {"args": ["a", 1]}, {"args": ["a", 1], "kwargs": {"wide": 1001}}):
        assert route(asked("x", parameters=names, **call), RULES).reason == "default"
    assert parameters(None) == ()


def test_the_call_is_heard_before_the_task_and_both_before_the_rules():
    both = Asked(
        "ml.x", declared=specs.parse("x", {"executor": "kubernetes"}), called=specs.parse("x", {"executor": "docker"})
    )
    assert route(both, RULES, HEAVY) == Route("docker", None, "executor='docker' in the call")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"match": {}}, "a list of rules"),
        ([{"executor": "docker"}], "rule 1: match, executor and queue are its fields"),
        ([{"match": {}, "executor": "docker"}], "rule 1: match={}"),
        ([{"match": {"memory": "lots"}}], "rule 1: memory='lots'"),
        ([{"match": {"ram": "1g"}}], "rule 1: match has ram='1g'; it can have task, queue, cpus, memory"),
        ([{"match": {"task": "*"}, "executor": "podman"}], "executor='podman'; one of docker"),
        ([{"match": {"task": "*"}}, {"match": {"task": "*"}, "queue": 7}], "rule 2: queue=7"),
    ],
)
def test_a_rule_that_means_nothing_is_refused_where_it_is_written(given, says):
    with pytest.raises(InvalidSetting, match="route: ") as raised:
        app(route=given)
    assert says in str(raised.value)


def test_a_threshold_that_means_nothing_is_refused_where_it_is_written():
    for heavy in ({"ram": 1}, {"memory": "lots"}, ["memory"]):
        with pytest.raises(InvalidSetting, match="heavy"):
            app(heavy=heavy)


def app(**settings: Any) -> Celery:
    return configure(Celery("unit", broker="memory://", backend="cache+memory://", set_as_current=False), **settings)


def seen(*served: str, waiting: int = 0, oldest: float | None = None) -> Snapshot:
    return Snapshot(waiting, oldest, frozenset(served), 0.0)


BOTH = ("docker", "kubernetes")


@pytest.mark.parametrize(
    ("task", "cluster", "reason"),
    [
        (asked(), seen(*BOTH, waiting=101), "overflow: 101 messages wait > 100"),
        (asked(), seen(*BOTH, waiting=1, oldest=31.4), "overflow: the oldest message waits 31 s > 30 s"),
        (asked(), seen(*BOTH, waiting=100, oldest=30), None),
        (asked(), seen("docker", waiting=1000), None),
        (asked(executor="docker"), seen(*BOTH, waiting=1000), None),
        (asked(queue="mine"), seen(*BOTH, waiting=1000), None),
        (asked(volumes=["/data:/data"]), seen(*BOTH, waiting=1000), None),
        (asked(volumes=["named:/data"]), seen(*BOTH, waiting=1000), "overflow: 1000 messages wait > 100"),
        (asked(devices=["/dev/fuse"]), seen(*BOTH, waiting=1000), None),
        (asked(network="shop-net"), seen(*BOTH, waiting=1000), None),
    ],
)
def test_a_long_queue_overflows_where_the_task_may_go_either_way_and_pods_are_served(task, cluster, reason):
    one = router.Router(app(overflow_length=100, overflow_seconds=30.0))
    decided = one.decide(task, cluster)
    expected = ("docker", None) if reason is None else ("kubernetes", "kubernetes")
    assert (decided.executor, decided.queue) == expected
    assert reason is None or decided.reason == reason


def test_a_route_that_nobody_serves_is_told_once_a_minute_or_refused_or_kept_quiet(caplog):
    heavy = asked(executor="kubernetes")
    warns = router.Router(app())
    for _ in range(3):
        assert warns.decide(heavy, seen("docker")).executor == "kubernetes"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "task x goes to queue 'kubernetes' (executor kubernetes: executor='kubernetes' on the task)" in caplog.text
    caplog.clear()
    strict = router.Router(app(unserved="error"))
    with pytest.raises(NoWorker, match="nothing was sent; start one with -Q kubernetes"):
        strict.decide(heavy, seen("docker"))
    with pytest.raises(NoWorker, match="goes to queue 'celery' "):
        strict.decide(asked("x", queue="celery"), seen(*BOTH))
    with pytest.raises(NoWorker, match="goes to queue 'docker' "):
        strict.decide(asked("x", executor="process"), seen("kubernetes"))
    router.Router(app(unserved="off")).decide(heavy, seen("docker"))
    strict.decide(heavy, seen(*BOTH))
    strict.decide(asked("x", executor="kubernetes", queue="mine"), seen("mine"))
    strict.decide(asked("celery.backend_cleanup"), seen())
    assert caplog.text == ""


def test_a_function_of_the_application_is_asked_before_the_rules_and_after_who_names_an_executor():
    answers = {"a": "kubernetes", "b": None, "c": Route("docker", "slow", "because"), "d": "podman"}
    rules = [{"match": {"task": "*", "memory": ">64g"}, "queue": "huge"}]
    one = router.Router(
        app(router=lambda asked: answers[asked.name], heavy={"memory": "4g"}, route=rules, unserved="off")
    )
    assert one.decide(asked("a")) == Route("kubernetes", "kubernetes", "router of the application's own")
    assert one.decide(asked("b", memory="8g")).reason == "memory 8 GiB > 4 GiB"
    assert one.decide(asked("c")) == Route("docker", "slow", "because")
    assert one.decide(asked("c", memory="128g")).reason == "because"
    assert one.decide(asked("c", queue="mine")) == Route("docker", None, "because")
    assert one.decide(asked("a", executor="docker")).reason == "executor='docker' on the task"
    assert one.decide(asked("a", queue="kubernetes")).reason == "queue='kubernetes'"
    with pytest.raises(InvalidSetting, match="answered 'podman' for task d"):
        one.decide(asked("d"))
    with pytest.raises(InvalidSetting, match="router='nowhere:at_all'"):
        router.Router(app(router="nowhere:at_all"))


def test_the_installations_defaults_count_as_what_the_task_asks_for():
    one = router.Router(app(defaults={"image": "x", "memory": "8g"}, heavy={"memory": "4g"}, unserved="off"))
    assert one.decide(one.asked(name="x")).reason == "memory 8 GiB > 4 GiB"


def test_the_executor_of_the_defaults_is_the_last_to_be_heard():
    one = router.Router(
        app(
            defaults={"executor": "kubernetes"},
            route=[{"match": {"task": "light.*"}}],
            overflow_length=0,
            unserved="off",
        )
    )
    decided = one.decide(one.asked(name="x"))
    assert (decided.executor, decided.queue) == ("kubernetes", "kubernetes")
    assert decided.reason == "executor='kubernetes' in the defaults"
    assert one.decide(one.asked(name="light.x")).executor == "docker"
    assert one.decide(one.asked(name="x", called=specs.parse("x", {"executor": "inline"}))).executor == "inline"


def test_a_retry_keeps_its_route():
    kept = router.kept({"route": {"executor": "kubernetes", "reason": "overflow: 9 messages wait > 5"}})
    assert kept == Route("kubernetes", None, "overflow: 9 messages wait > 5, kept")
    assert router.kept({"route": {"executor": kept.executor, "reason": kept.reason}}) == kept
    assert router.kept({"route": {"executor": "podman"}}) is None
    assert router.kept({"route": 7}) is None
    assert router.kept(None) is None
