"""A stream cut into numbered lines: the same numbers, however the bytes arrive."""

from hypothesis import given
from hypothesis import strategies as st

from cellwork_worker.lines import LineCutter, Lines

OUTPUT = st.lists(st.sampled_from([b"a", b"\n", b"bcd", b"\r\n", b"x" * 7, b"y" * 30]), max_size=30).map(b"".join)


def numbered(chunks: list[bytes], limit: int = 8) -> dict[int, bytes]:
    """Line number to text, as a reader sees it."""
    cutter = LineCutter(limit)
    found = [lines for chunk in chunks for lines in cutter.feed(chunk)] + cutter.finish()
    seen: dict[int, bytes] = {}
    at = 0
    for lines in found:
        assert lines.byte == at
        at += len(lines.text)
        for i, text in enumerate(lines.text.removesuffix(b"\n").split(b"\n")):
            assert lines.line + i == len(seen)
            seen[lines.line + i] = text
    assert (cutter.line, cutter.byte) == (len(seen), at)
    return seen


@given(OUTPUT, st.lists(st.integers(0, 200), max_size=8))
def test_it_makes_no_difference_where_the_stream_is_cut(data: bytes, where: list[int]):
    cuts = sorted({min(cut, len(data)) for cut in where})
    chunks = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert numbered(chunks) == numbered([data])


def test_an_open_line_waits_for_its_end_and_the_last_one_for_the_streams():
    cutter = LineCutter(100)
    assert cutter.feed(b"one\ntw") == [Lines(0, 0, b"one\n")]
    assert cutter.feed(b"o\nthree") == [Lines(1, 4, b"two\n")]
    assert cutter.finish() == [Lines(2, 8, b"three")]


def test_a_line_longer_than_the_limit_is_cut_and_not_held():
    cutter = LineCutter(4)
    given = [lines for _ in range(1000) for lines in cutter.feed(b"xyz")]
    assert sum(len(lines.text) for lines in given) > 3000 - 4
    assert all(len(lines.text) <= 4 for lines in given)


def test_after_a_loss_the_numbers_go_on_behind_it_and_only_whole_lines_are_given():
    cutter = LineCutter(100)
    cutter.feed(b"zero\non")
    cutter.lost(2, 20, open_end=True)
    assert cutter.feed(b"rest of it") == []
    assert cutter.feed(b", and its end\nfour\n") == [Lines(4, 51, b"four\n")]
    cutter.lost(3, 9, open_end=False)
    assert cutter.feed(b"eight\n") == [Lines(8, 65, b"eight\n")]
