"""What a job lets happen after it was ended: no body may begin."""

import threading

import pytest

from cellwork_worker.job import FENCED, Ended, Job


def job(**more) -> Job:
    return Job(id="x", sandbox="cellwork-x-0", target=id, args=(), callbacks=None, **more)  # type: ignore[arg-type]


def test_a_body_begins_only_where_the_token_is_confirmed_and_nobody_ended_it():
    asked: list[Job] = []
    one = job(confirm=asked.append)
    one.beginning()
    assert asked == [one]
    one.leave(FENCED)
    with pytest.raises(Ended):
        one.beginning()


def test_what_is_left_is_abandoned_once_and_what_was_ended_before_is_not_left():
    abandoned: list[str] = []
    one = job()
    one.starting(lambda signal: None, lambda: abandoned.append("it"))
    one.leave(FENCED)
    assert (one.left, one.ended, abandoned) == (True, FENCED, ["it"])
    other = job(ended="time limit")
    other.leave(FENCED)
    assert (other.left, other.ended) == (False, "time limit")


def test_progress_is_stored_until_somebody_ends_the_task_and_never_over_what_is_stored_then():
    stored: list[str] = []
    one = job()
    one.report(lambda: stored.append("PROGRESS"))
    ending = threading.Thread(target=one.terminate, args=(15,))

    def slowly() -> None:
        ending.start()
        ending.join(0.05)
        assert ending.is_alive(), "REVOKED is stored while progress still is"
        stored.append("PROGRESS")

    one.report(slowly)
    ending.join()
    stored.append("REVOKED")
    one.report(lambda: stored.append("PROGRESS"))
    assert stored[-1] == "REVOKED"
