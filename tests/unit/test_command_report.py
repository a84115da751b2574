"""What a shell tells at the end of a command's standard error, and that nothing of the output is lost for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellwork_worker.executors import shell
from cellwork_worker.executors.base import STDERR, STDOUT
from cellwork_worker.executors.docker.report import Report, mark, without

ID = "cellwork-1f0c-0"
MARK = mark(ID).encode()
TOLD = MARK + b"ended\ncpuacct.usage 5000000\n"


def read(pieces: list[bytes]) -> tuple[bytes, str]:
    """Standard error, and what was told."""
    got = b""

    def emit(stream: int, piece: bytes) -> bool:
        nonlocal got
        assert (stream, bool(piece)) == (STDERR, True)
        got += piece
        return False

    report = Report(ID, emit)
    for piece in pieces:
        report.emit(STDERR, piece)
    told = report.end()
    return got, told


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [piece for piece in [*pieces, data] if piece]


@given(st.binary(max_size=60), st.booleans(), st.lists(st.integers(1, 20), max_size=20))
def test_output_is_whole_wherever_it_is_cut(output, tells, sizes):
    got, told = read(cut(output + (TOLD if tells else b""), sizes))
    assert got == output
    assert shell.figures(told) == ({"cpu_seconds": 0.005} if tells else {})


@given(st.lists(st.sampled_from([b"\x1e", MARK, MARK[:7], b"x"]), max_size=8), st.lists(st.integers(1, 20)))
def test_what_looks_like_the_mark_costs_no_output_but_what_stands_behind_the_mark(parts, sizes):
    output = b"".join(parts)
    assert read(cut(output, sizes))[0] == output.partition(MARK)[0]


def test_output_with_the_mark_in_it_that_is_no_report_is_output():
    output = MARK + bytes(20_000)
    assert read([output]) == (output, "")
    assert read([output + TOLD]) == (output, TOLD.removeprefix(MARK).decode())


@pytest.mark.parametrize("stream", [STDOUT, 0])
def test_only_standard_error_is_looked_at(stream):
    seen = []
    report = Report(ID, lambda *piece: seen.append(piece) or True)
    assert report.emit(stream, TOLD) is True
    assert seen == [(stream, TOLD)]


def test_a_kept_log_ends_where_its_command_did():
    assert without(b"words\n" + TOLD, ID) == b"words\n"
    assert without(b"words\n", ID) == b"words\n"
