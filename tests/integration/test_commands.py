"""Command tasks: an image without Python."""

import hashlib

import pytest
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded

from cellwork.errors import CommandFailed, InvalidResult, InvalidSpec

TIMEOUT = 60


def test_the_result_is_what_the_command_printed(commands):
    digest = hashlib.sha256(b"tea; rm -rf /").hexdigest()
    assert commands.checksum.delay("tea; rm -rf /").get(timeout=TIMEOUT) == digest + "\n"


def test_the_result_can_be_json(commands):
    assert commands.as_json.delay('{"a": [1, 2.5, null]}').get(timeout=TIMEOUT) == {"a": [1, 2.5, None]}


def test_what_is_no_json_is_an_invalid_result(commands):
    with pytest.raises(InvalidResult, match="not JSON"):
        commands.as_json.delay("{oops").get(timeout=TIMEOUT)


def test_the_result_can_be_none(commands):
    assert commands.silent.delay().get(timeout=TIMEOUT) is None


def test_a_status_other_than_0_is_an_error_with_the_logs_tail(commands):
    with pytest.raises(CommandFailed, match="status 3") as caught:
        commands.status.delay(3).get(timeout=TIMEOUT)
    assert "to stdout" in str(caught.value)
    assert "to stderr" in str(caught.value)


def test_status_0_is_success(commands):
    assert commands.status.delay(0).get(timeout=TIMEOUT) == "to stdout\n"


def test_a_command_must_be_a_list(commands):
    with pytest.raises(InvalidSpec, match="list of strings"):
        commands.not_a_list.delay().get(timeout=TIMEOUT)


def test_time_limits_hold_for_commands_too(commands):
    with pytest.raises(SoftTimeLimitExceeded):
        commands.wait.apply_async((60,), soft_time_limit=1).get(timeout=TIMEOUT)
    with pytest.raises(TimeLimitExceeded):
        commands.wait.apply_async((60,), time_limit=1).get(timeout=TIMEOUT)


def test_a_soft_limit_asks_with_the_stop_signal_and_waits_for_the_stop_grace(commands, shared_worker):
    asked = commands.waits.apply_async(("INT",), soft_time_limit=1, stop_signal="INT", stop_grace=30)
    with pytest.raises(SoftTimeLimitExceeded):
        asked.get(timeout=15)
    killed = commands.waits.apply_async(("INT",), soft_time_limit=1, stop_grace=0.5)
    with pytest.raises(SoftTimeLimitExceeded):
        killed.get(timeout=15)
