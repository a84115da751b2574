"""Which sandboxes the reaper ends: a pure decision."""

import pytest

from cellwork_worker.executors.base import Sandbox
from cellwork_worker.executors.docker.listing import listed
from cellwork_worker.fencing import Holding
from cellwork_worker.launch import attempt_of, sandbox_name
from cellwork_worker.reaper import PATIENCE, orphans

NOW = 1_000_000.0
OLD = NOW - 600
ID = "11111111-2222-3333-4444-555555555555"


def ended(
    sandbox: Sandbox,
    holding: Holding = Holding(),  # noqa: B008
    *,
    outcome: bool = False,
    place: str = "docker-here",
    broker: str = "ours",
) -> bool:
    live = {"alive@test", "its-process"}
    return bool(orphans([sandbox], place, broker, live, lambda one: holding, lambda task_id: outcome, NOW))


def of(worker: str, created: float = OLD, **more) -> Sandbox:
    return Sandbox(id=f"cellwork-{ID}-0", worker=worker, task_id=ID, created=created, **more)


def test_a_live_workers_sandbox_is_left_alone():
    assert not ended(of("alive@test"), outcome=True)


def test_a_dead_workers_sandbox_goes_when_its_task_has_its_outcome():
    assert ended(of("dead@test"), outcome=True)
    assert ended(of("dead@test"), Holding(done=True))


def test_a_process_that_was_started_again_under_the_same_name_is_another_worker():
    assert ended(of("alive@test", boot="earlier"), outcome=True)
    assert not ended(of("alive@test", boot="its-process"), outcome=True)


def test_a_dead_workers_sandbox_that_another_has_adopted_is_left_alone():
    assert not ended(of("dead@test"), Holding(live=True, place="docker-here", until=NOW + 10), outcome=True)


def test_a_dead_workers_sandbox_whose_task_was_taken_over_elsewhere_goes_at_once():
    taken = Holding(live=True, place="docker-there", until=NOW + 10)
    assert ended(of("dead@test"), taken)
    assert not ended(of("alive@test"), taken), "a live worker is fenced, and ends it itself"


def test_of_workers_that_use_another_redis_nothing_is_known():
    assert ended(of("dead@test", broker="ours"), outcome=True)
    assert not ended(of("dead@test", broker="others"), outcome=True)
    assert not ended(of("dead@test", NOW - 2 * PATIENCE, broker="others"))


@pytest.mark.parametrize("unsure", ["docker-unknown", "kubernetes-https://10.0.0.1:443", ""])
def test_a_place_that_may_be_this_one_under_another_name_is_not_taken_for_another(unsure):
    taken = Holding(live=True, place="docker-there", until=NOW + 10)
    assert not ended(of("dead@test"), taken, place=unsure)
    assert not ended(of("dead@test"), Holding(live=True, place=unsure, until=NOW + 10))


def test_a_dead_workers_sandbox_waits_for_its_next_delivery_but_not_for_ever():
    assert not ended(of("dead@test"), Holding(until=NOW - 60))
    assert ended(of("dead@test", NOW - 2 * PATIENCE), Holding(until=NOW - PATIENCE - 1))


def test_a_sandbox_that_has_just_begun_is_not_judged():
    assert not ended(of("dead@test", NOW - 1), outcome=True)


@pytest.mark.parametrize("needed", [True, False])
def test_a_dead_workers_namespace_goes_when_no_sandbox_is_in_it(needed):
    holder = Sandbox(id="cellwork-holder-1", worker="dead@test", task_id="", created=OLD, needed=needed)
    assert ended(holder) is not needed


def test_the_attempt_of_a_sandbox_is_its_name_without_the_count_of_starts():
    for task_id in (ID, "my id", "plain"):
        attempt = sandbox_name(task_id, 3)
        assert attempt_of(attempt) == attempt
        if task_id != "plain":
            assert attempt_of(sandbox_name(task_id, 3, 2)) == attempt


def test_a_holder_is_needed_while_a_sandbox_that_joined_it_runs():
    def container(name, state, network, **labels):
        return {
            "Id": f"id-{name}",
            "Names": [f"/{name}"],
            "State": state,
            "Created": 5,
            "HostConfig": {"NetworkMode": network},
            "Labels": labels,
        }

    for state, needed in (("running", True), ("exited", False)):
        for reference in ("holder", "id-holder"):
            found = listed(
                [
                    container("holder", "running", "none", **{"cellwork.worker": "w"}),
                    container("sandbox", state, f"container:{reference}", **{"cellwork.task-id": "t"}),
                ]
            )
            assert [(s.id, s.worker, s.task_id, s.needed) for s in found] == [
                ("holder", "w", "", needed),
                ("sandbox", "", "t", False),
            ]
