"""What a sandbox prints reaches its log at once, and as it was printed."""

import json

from cellwork.outcome import Success
from cellwork.settings import Settings
from cellwork_worker.executors.base import STDOUT
from cellwork_worker.logs import SandboxLog
from cellwork_worker.logstream import LogStream
from cellwork_worker.reading import Reading
from cellwork_worker.redaction import Redaction

NONCE = "ab" * 16


class Kept(SandboxLog):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__(None, "id", LogStream("cellwork-id-0", 0, 1000, 1000))
        self.text = b""

    def write(self, stream: int, data: bytes) -> None:
        self.text += data


def reading(*secrets: str) -> tuple[Reading, Kept]:
    log = Kept()
    return Reading("cellwork-id-0", NONCE, Settings(), lambda state, meta: None, log, Redaction(secrets)), log


def frame(kind: str) -> bytes:
    return b"\n" + NONCE.encode() + b" " + json.dumps({"kind": kind, "data": None}).encode() + b"\n"


def test_a_line_is_given_at_once_although_its_line_feed_may_begin_a_frame():
    reader, log = reading()
    reader.emit(STDOUT, b"one\n")
    assert log.text == b"one\n"
    reader.emit(STDOUT, b"two\n")
    assert log.text == b"one\ntwo\n"
    reader.emit(STDOUT, b"\n\nthree")
    reader.close()
    assert log.text == b"one\ntwo\n\n\nthree"


def test_a_frame_that_comes_line_by_line_as_the_engines_log_gives_it_leaves_no_empty_line():
    reader, log = reading()
    for line in (b"one\n" + frame("usage") + b"two\n" + frame("usage")).splitlines(keepends=True):
        reader.emit(STDOUT, line)
    reader.close()
    assert log.text == b"one\ntwo\n"


def test_frames_are_not_in_the_log_and_a_line_left_open_before_one_goes_on_behind_it():
    reader, log = reading()
    reader.emit(STDOUT, b"open" + frame("usage") + b" and closed\n" + frame("usage"))
    reader.close()
    assert log.text == b"open and closed\n"


def test_a_secret_that_is_cut_by_chunks_is_taken_out_and_nothing_else_is_lost():
    reader, log = reading("hunter2")
    for chunk in (b"it is hun", b"ter2\nnot hun", b"\nhunt"):
        reader.emit(STDOUT, chunk)
    reader.close()
    assert log.text == b"it is [redacted]\nnot hun\nhunt"
    assert reader.tail == log.text


def test_an_outcome_stays_one_whatever_the_secret_is():
    reader, _ = reading("success")
    data = {"status": "success", "value": ["success"]}
    reader.emit(STDOUT, b"\n" + NONCE.encode() + b" " + json.dumps({"kind": "outcome", "data": data}).encode() + b"\n")
    assert reader.outcome == Success(["[redacted]"])


def test_a_flood_of_broken_frames_fills_no_workers_log(caplog):
    reader, _ = reading()
    broken = b"\n" + NONCE.encode() + b' {"kind": "state", "data": {"state": "SUCCESS"}}\n'
    for _ in range(10_000):
        reader.emit(STDOUT, broken)
    assert "asked for state 'SUCCESS', which a task cannot set itself" in caplog.text
    assert len(caplog.text) < 300_000
