"""Commands whose program only their image knows: a registry that may be asked tells, and they are measured."""

import uuid
from collections.abc import Callable, Iterator

import msgspec
import pytest
from dockerruns import BUSYBOX
from podruns import Running, launch
from registry import Registry, serving

from cellwork_worker.executors.kubernetes import KubernetesExecutor

GREETS = 'ENTRYPOINT ["/bin/echo", "hello"]\nCMD ["you"]'


@pytest.fixture
def registry(engine) -> Iterator[Registry]:
    """Of one image, which has a program of its own, and which the node has."""
    base = engine.containers.create(BUSYBOX, ["true"])
    try:
        image = base.commit("cellwork-tests/greets", uuid.uuid4().hex[:12], changes=GREETS)
    finally:
        base.remove(force=True)
    try:
        with serving(image) as server:
            engine.images.pull(f"{server.name}/greets@{server.manifest}")
            yield server
    finally:
        engine.images.remove(image.id, force=True)


@pytest.fixture
def start(make_executor, registry) -> Callable[..., Running]:
    """Start a command of that image, by its digest."""

    def start(*argv: str, executor: KubernetesExecutor | None = None, by: str = "", **options: object) -> Running:
        image = f"{registry.name}/greets{by or f'@{registry.manifest}'}"
        one = launch("", **{"image": image, "pull": "missing", **options})
        return Running(executor or allowed(make_executor, registry), msgspec.structs.replace(one, argv=argv))

    return start


def allowed(make_executor, registry: Registry) -> KubernetesExecutor:
    return make_executor(registries=[registry.name])


@pytest.mark.parametrize(("argv", "printed"), [((), b"hello you\n"), (("all",), b"hello all\n")])
def test_it_is_run_as_its_image_says_and_measured(start, argv, printed):
    run = start(*argv)
    ended = run.exit()
    assert (ended.code, run.output) == (0, printed)
    assert 0 < ended.used["cpu_seconds"] < 5
    assert ended.used["peak_memory_bytes"] > 0


@pytest.mark.parametrize("by", [":latest", ":1.0"])
def test_what_a_tag_means_is_asked_and_that_image_is_run(start, registry, server, by):
    run = start("now", by=by)
    run.exit()
    assert run.output == b"hello now\n"
    (made,) = [
        one
        for _, change, kind, one in server.store._history
        if (change, kind, one["metadata"]["name"]) == ("ADDED", "pods", run.launch.id)
    ]
    assert made["spec"]["containers"][0]["image"] == f"{registry.name}/greets@{registry.manifest}"


def test_a_registry_is_asked_once_about_an_image_and_only_where_that_may_be(start, registry, make_executor):
    nobody, somebody = make_executor(), allowed(make_executor, registry)
    for executor, number in ((nobody, 0), (somebody, 2), (somebody, 2)):
        run = start("again", executor=executor)
        ended = run.exit()
        assert (run.output, bool(ended.used)) == (b"hello again\n", number > 0)
        assert registry.agents.count("cellwork") == number


def test_a_registry_that_does_not_tell_costs_the_figures_and_nothing_else(start, registry, caplog):
    registry.login = "who:knows"
    run = start("later")
    assert (run.exit().used, run.output) == ({}, b"hello later\n")
    assert "gives status 401; asked again in 600 s" in caplog.text


def test_what_does_not_bear_a_shell_is_not_asked_for(start, registry):
    run = start("alone", init=False)
    assert (run.exit().used, run.output) == ({}, b"hello alone\n")
