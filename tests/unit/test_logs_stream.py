"""Output → entries of a Redis stream with a cap, and back to lines."""

from cellwork.logs import LogLine, _Reader
from cellwork_worker.executors.base import STDERR, STDOUT
from cellwork_worker.logstream import Batch, Entry, Gap, LogStream


def stream(max_bytes: int = 1 << 20, max_entries: int = 1000) -> LogStream:
    return LogStream("cellwork-x-0", 0, max_bytes, max_entries)


def read(entries: list[Entry], reader: _Reader | None = None) -> list[LogLine]:
    """As Redis would give them: all of it bytes."""
    reader = reader or _Reader(from_start=True)
    lines = []
    for entry in entries:
        fields = {k.encode(): v if isinstance(v, bytes) else str(v).encode() for k, v in entry.fields.items()}
        lines += reader.read(0, fields)
    return lines


def texts(entries: list[Entry]) -> list[tuple[str, str]]:
    return [(line.stream, line.text) for line in read(entries)]


def test_the_order_of_the_two_streams_is_the_order_of_arrival():
    pieces = [(STDOUT, b"1\n"), (STDOUT, b"2\n"), (STDERR, b"3\n"), (STDOUT, b"4\n")]
    entries = stream().entries(Batch(pieces=pieces))
    assert len(entries) == 3, "neighbours of one stream are one entry"
    assert texts(entries) == [("stdout", "1"), ("stdout", "2"), ("stderr", "3"), ("stdout", "4")]


def test_what_was_dropped_is_told_between_the_lines_before_and_after():
    log = stream()
    first = log.entries(Batch(pieces=[(STDOUT, b"0\n1\n")]))
    second = log.entries(Batch(pieces=[(STDOUT, b"7\n")], gaps={STDOUT: Gap(5, 100)}, closed=True))
    assert texts(first + second) == [
        ("stdout", "0"),
        ("stdout", "1"),
        ("cellwork", "5 lines (100 bytes) dropped"),
        ("stdout", "7"),
    ]


def test_what_was_dropped_at_the_very_end_is_told_by_the_end_mark():
    log = stream()
    entries = log.entries(Batch(pieces=[(STDERR, b"x\n")]))
    entries += log.entries(Batch(pieces=[], gaps={STDERR: Gap(1, 10, open_end=True)}, closed=True, final=True))
    assert texts(entries) == [("stderr", "x"), ("cellwork", "2 lines (10 bytes) dropped")]


def test_the_end_of_a_run_that_is_tried_again_does_not_end_the_reader():
    reader = _Reader(from_start=True)
    read(stream().entries(Batch(pieces=[(STDOUT, b"x\n")], final=False)), reader)
    assert not reader.ended
    read(stream().entries(Batch(pieces=[], final=True)), reader)
    assert reader.ended


def test_a_line_that_was_written_twice_is_read_once():
    entries = stream().entries(Batch(pieces=[(STDOUT, b"a\nb\n")]))
    again = stream().entries(Batch(pieces=[(STDOUT, b"a\nb\nc\n")]))
    assert texts(entries + again) == [("stdout", "a"), ("stdout", "b"), ("stdout", "c")]


def test_the_newest_bytes_and_entries_stay():
    log = stream(max_bytes=8000)
    kept = [log.entries(Batch(pieces=[(STDOUT, b"x" * 899 + b"\n")]))[0].keep for _ in range(100)]
    assert kept[0] == 1000, "the cap on entries; earlier attempts stay"
    assert kept[-1] == 8
    few = stream(max_entries=3)
    assert [few.entries(Batch(pieces=[(STDOUT, b"x\n")]))[0].keep for _ in range(5)][-1] == 3


def test_earlier_attempts_go_first_once_the_stream_is_full():
    log = stream(max_bytes=10_000)
    assert log.entries(Batch(pieces=[(STDOUT, b"x\n")]))[0].keep == 1000
    assert log.measured(9_000) == 1000
    entries = [log.entries(Batch(pieces=[(STDOUT, b"y" * 400 + b"\n")]))[0] for _ in range(5)]
    assert [entry.keep for entry in entries] == [1000, 3, 4, 5, 6]


def test_an_entry_is_a_part_of_the_cap_so_that_something_always_stays():
    entries = stream(max_bytes=8000).entries(Batch(pieces=[(STDOUT, b"x\n" * 50_000)]))
    assert max(len(entry.fields["text"]) for entry in entries) <= 1000
    assert entries[-1].keep == 7


def test_a_reader_that_starts_in_the_middle_misses_nothing():
    log = stream()
    log.entries(Batch(pieces=[(STDOUT, b"a\n")]))
    later = log.entries(Batch(pieces=[(STDOUT, b"b\n")]))
    assert [line.text for line in read(later, _Reader(from_start=False))] == ["b"]


def test_bytes_that_are_no_text_are_shown_escaped():
    entries = stream().entries(Batch(pieces=[(STDOUT, b"\xff\xfe ok\r\n")]))
    assert texts(entries) == [("stdout", "\\xff\\xfe ok")]
