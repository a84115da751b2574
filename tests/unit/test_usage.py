"""What runs used: histograms that fade, claims that are not believed, limits that somebody changed."""

import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellwork import usage
from cellwork.usage import Run
from cellwork_worker import metering
from cellwork_worker.limits import limit


def run(**fields) -> Run:
    known = {
        "task": "shop.parse",
        "task_id": "an-id",
        "sandbox": "cellwork-an-id-0",
        "executor": "docker",
        "worker": "w@test",
        "host": "test",
        "queue": "docker",
        "outcome": "success",
        "ended": time.time(),
    }
    return Run(**{**known, **fields})


@given(st.floats(0.002, 1e13))
def test_a_histogram_tells_a_value_to_within_nine_percent(value):
    found = usage.of_histogram({usage.bucket(value): 1})
    assert value <= found.p50 * (1 + 1e-9) <= value * 1.0906


def test_quantiles_of_values_are_exact():
    found = usage.of_values(range(1, 101))
    assert found == usage.Quantiles(100, 50, 95, 100)
    assert usage.of_values([]) is None


def test_the_bill_of_given_runs_is_by_task_the_dearest_first():
    found = usage.summarise([run(cpu_seconds=1.0), run(task="dear", cpu_seconds=5.0), run(outcome="task-error")])
    assert [(one.task, one.runs, one.failed) for one in found] == [("dear", 1, 0), ("shop.parse", 2, 1)]


@pytest.mark.parametrize("claimed", [-1, float("nan"), "1", True, None, [], {}])
def test_what_a_sandbox_claims_to_have_used_must_be_an_amount(claimed):
    assert metering._amount(claimed) is None


def test_a_sandbox_that_claims_too_much_is_cut():
    assert metering._amount(10**4000) == metering._amount(float("inf")) == 2.0**53


def test_waiting_counts_from_when_a_task_was_due():
    sent = {"cellwork": {"sent": 1000.0}}
    assert metering.queue_seconds(sent, 1003.0) == 3.0
    assert metering.queue_seconds({**sent, "eta": "1970-01-01T00:16:42+00:00"}, 1003.0) == 1.0
    assert metering.queue_seconds(sent, 999.0) == 0.0, "clocks differ"
    assert metering.queue_seconds({**sent, "eta": "soon"}, 1003.0) == 3.0
    assert metering.queue_seconds({"cellwork": "what"}, 1003.0) is None


def test_a_route_is_taken_from_the_message_only_where_it_is_one():
    asked = {"cellwork": {"route": {"executor": "docker", "reason": "x" * 1000}}}
    assert metering.route(asked) == ("docker", "x" * 500)
    assert metering.route({"cellwork": {"route": {"executor": 7, "reason": []}}}) == (None, None)
    assert metering.route({}) == (None, None)


@pytest.mark.parametrize(
    ("said", "declared", "now", "holds"),
    [
        (None, None, None, None),
        (60, 60, 60, 60),  # the producer's declaration, unchanged
        (60, 60, 5, 5),  # changed by a button
        (10, 60, 5, 10),  # the call's own
        (None, None, 5, 5),
        (60, 60, None, 60),  # the other limit was changed
        (60, None, None, 60),
    ],
)
def test_a_limit_set_meanwhile_replaces_the_declared_one_but_not_a_calls_own(said, declared, now, holds):
    assert limit(said, declared, now) == holds


def test_a_run_is_stored_without_what_is_not_known():
    assert b"null" not in msgspec.json.encode(run())
