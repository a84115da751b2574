"""What comes back from a task that ran in a container: values, exceptions, output."""

import uuid
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from waiting import wait_until

from cellwork.errors import InvalidResult, NoOutcome, OutOfMemory, RemoteTaskError, ResultTooLarge

TIMEOUT = 60

VALUES = [
    None,
    True,
    0,
    -(2**70),
    1.5,
    "",
    "täxt ☃ \U0001f40d \0 \n",
    [],
    [1, [2, [3]]],
    {},
    {"a": {"b": [None]}},
    datetime(2026, 11, 23, 12, 30, 1, 5, tzinfo=timezone(timedelta(hours=2))),
    datetime(2026, 11, 23, 12, 30),
    date(2026, 11, 23),
    time(12, 30, 59),
    Decimal("12.340"),
    uuid.UUID("12345678-1234-5678-1234-567812345678"),
    b"plain",
    bytes(range(256)),
    {"nested": [{"when": date(2026, 1, 1), "cost": Decimal("0.10")}]},
]


def test_every_json_and_celery_type_goes_in_and_comes_back(tasks):
    assert tasks.echo.delay(VALUES).get(timeout=TIMEOUT) == VALUES


@pytest.mark.parametrize("value", ["x" * 5_000_000, list(range(200_000))], ids=["long string", "long list"])
def test_a_long_value_comes_back_whole(tasks, value):
    assert tasks.echo.delay(value).get(timeout=TIMEOUT) == value


def test_the_body_runs_in_a_container_with_the_safe_defaults(tasks):
    where = tasks.where.delay().get(timeout=TIMEOUT)
    assert where["pid"] == 1
    assert where["uid"] == 65534
    assert where["interfaces"] == ["lo"]
    assert where["memory"] == 128 << 20
    assert where["writable"] is False
    assert not [name for name in where["environment"] if "CELERY" in name or "REDIS" in name or "SHOP" in name]


def test_two_runs_are_two_containers(tasks):
    first, second = tasks.where.delay(), tasks.where.delay()
    assert first.get(timeout=TIMEOUT)["host"] != second.get(timeout=TIMEOUT)["host"]


def test_helper_modules_of_the_package_travel_with_the_task(tasks):
    assert tasks.price.delay("10").get(timeout=TIMEOUT) == Decimal("11.90")


def test_an_image_with_another_python_runs_the_same_module(tasks):
    import sys

    version = tasks.other_python.delay().get(timeout=TIMEOUT)
    assert version[0] == 3
    assert version != list(sys.version_info[:2])


def test_a_library_that_only_the_image_has_is_imported_there(tasks):
    assert tasks.uses_image_library.delay().get(timeout=TIMEOUT)


def test_a_builtin_exception_is_raised_again_with_its_arguments_and_traceback(tasks):
    result = tasks.fail_builtin.delay("bad")
    with pytest.raises(ValueError, match="bad") as caught:
        result.get(timeout=TIMEOUT)
    assert caught.value.args == ("bad", 42)
    assert "in fail_builtin" in result.traceback
    assert "raise ValueError(text, 42)" in result.traceback


def test_the_modules_own_exception_is_raised_again(tasks):
    result = tasks.fail_own.delay("tea")
    error = result.get(timeout=TIMEOUT, propagate=False)
    assert type(error).__name__ == "OutOfStock"
    assert "tea: 3 left" in str(error)
    assert "in fail_own" in result.traceback


def test_an_exception_whose_class_the_worker_lacks_comes_as_data(tasks):
    result = tasks.fail_unknown.delay()
    with pytest.raises(RemoteTaskError, match="the worker has no such class") as caught:
        result.get(timeout=TIMEOUT)
    assert "Local" in caught.value.args[1]
    assert "in fail_unknown" in result.traceback


@pytest.mark.parametrize("name", ["raises_nasty", "raises_memory_error", "raises_system_exit_of_the_worker"])
def test_an_exception_that_could_harm_the_worker_comes_as_data(hostile, shared_worker, name):
    error = getattr(hostile, name).delay().get(timeout=TIMEOUT, propagate=False)
    assert isinstance(error, Exception)
    assert shared_worker.process.poll() is None


def test_a_value_that_json_cannot_carry_is_refused_by_its_path(tasks):
    with pytest.raises(InvalidResult, match=r"rows.*1.*lock"):
        tasks.unserialisable.delay().get(timeout=TIMEOUT)


@pytest.mark.parametrize(("name", "argument"), [("returns_nan", None), ("returns_deep", 5_000), ("returns_deep", 150)])
def test_a_value_outside_of_json_is_refused(hostile, name, argument):
    task = getattr(hostile, name)
    with pytest.raises(InvalidResult):
        task.apply_async(() if argument is None else (argument,)).get(timeout=TIMEOUT)


def test_a_value_that_is_too_large_is_refused_with_its_size_and_the_limit(hostile):
    with pytest.raises(ResultTooLarge, match="result_max_bytes=8388608"):
        hostile.returns_much.delay(9 << 20).get(timeout=TIMEOUT)


def test_binary_garbage_on_the_output_harms_nothing(hostile):
    assert hostile.prints_garbage.delay().get(timeout=TIMEOUT) == "survived"


def test_forged_frames_are_output_and_nothing_else(hostile):
    assert hostile.forges_frames.delay().get(timeout=TIMEOUT) == "honest"


def test_a_body_that_leaves_without_an_outcome_is_no_success(hostile):
    with pytest.raises(NoOutcome, match="status 0"):
        hostile.leaves_at_once.delay().get(timeout=TIMEOUT)


def test_a_body_that_kills_its_parent_kills_nobody_else(hostile, shared_worker):
    result = hostile.kills_its_parent.delay().get(timeout=TIMEOUT, propagate=False)
    assert result == "still there" or isinstance(result, Exception)
    assert shared_worker.process.poll() is None


def test_a_body_that_calls_sys_exit_has_failed(hostile):
    with pytest.raises(Exception, match="SystemExit"):
        hostile.exits.delay(3).get(timeout=TIMEOUT)


def test_a_body_that_eats_its_memory_is_out_of_memory(hostile):
    with pytest.raises(OutOfMemory, match="128 MiB"):
        hostile.eats_memory.delay().get(timeout=TIMEOUT)


def test_a_body_whose_child_is_killed_for_memory_is_out_of_memory_where_it_fails_of_that(hostile):
    with pytest.raises(OutOfMemory, match=r"limit of 64 MiB \(it used 6.* MiB at most\).*CalledProcessError") as caught:
        hostile.feeds_a_child.apply_async((200, True), memory="64m").get(timeout=TIMEOUT)
    assert "memory=…" in str(caught.value)
    assert hostile.feeds_a_child.apply_async((200, False), memory="64m").get(timeout=TIMEOUT) == -9
    assert hostile.feeds_a_child.apply_async((200, True), memory="64m", memory_max="512m").get(timeout=TIMEOUT) == 0


def test_the_limit_can_be_given_per_call(tasks):
    assert tasks.where.apply_async(memory="64Mi").get(timeout=TIMEOUT)["memory"] == 64 << 20


def test_the_output_is_in_the_workers_log(tasks, shared_worker):
    assert tasks.prints.delay().get(timeout=TIMEOUT) == "printed"
    for text in ("| on stdout", "| on stderr", "through logging"):
        wait_until(lambda text=text: text in shared_worker.text, what=f"{text!r} in the log")


def test_an_ignored_result_is_not_stored_but_the_task_runs(tasks, shared_worker):
    result = tasks.ignored.delay()
    wait_until(lambda: f"shop.tasks.ignored[{result.id}] succeeded" in shared_worker.text, what="the task to run")
    assert result.backend.client.get(result.backend.get_key_for_task(result.id)) is None


def test_ignore_leaves_the_state_alone(tasks, shared_worker):
    result = tasks.ignore.delay()
    wait_until(lambda: f"shop.tasks.ignore[{result.id}] ignored" in shared_worker.text, what="the task to be ignored")
    assert result.state == "STARTED"


def test_progress_is_seen_while_the_task_runs(tasks):
    result = tasks.progress.delay()
    wait_until(lambda: result.state == "PROGRESS", timeout=TIMEOUT, what="PROGRESS")
    assert result.info == {"done": 1, "of": 2}
    assert result.get(timeout=TIMEOUT) == "done"


def test_a_task_cannot_claim_a_final_state(tasks):
    result = tasks.claims_success.delay()
    assert isinstance(result.get(timeout=TIMEOUT, propagate=False), ValueError | str)
    assert result.result != "forged"


def test_current_tells_the_task_who_it_is(tasks):
    result = tasks.context.apply_async(time_limit=50)
    context = result.get(timeout=TIMEOUT)
    assert context["id"] == result.id
    assert context["name"] == "shop.tasks.context"
    assert context["deadline"] is not None


def test_shared_tasks_and_tasks_as_classes_run_in_containers_too(tasks):
    assert tasks.shared.delay(21).get(timeout=TIMEOUT) == 42
    result = tasks.greet.delay("you")
    assert result.get(timeout=TIMEOUT) == f"hello you from {result.id}"


def test_an_inline_task_runs_in_the_worker_itself(tasks, shared_worker):
    ran = tasks.inline.delay().get(timeout=TIMEOUT)
    assert ran["pid"] == shared_worker.process.pid
    assert ran["thread"].startswith("slot-")


def test_a_soft_limit_raises_inside_the_container(tasks):
    assert tasks.notices_soft_limit.apply_async((30,), soft_time_limit=1).get(timeout=TIMEOUT) == "noticed"
    with pytest.raises(SoftTimeLimitExceeded):
        tasks.sleep.apply_async((30,), soft_time_limit=1).get(timeout=TIMEOUT)
