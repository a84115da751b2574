"""A secret's value is taken out of whatever leaves a sandbox, however it is cut."""

from hypothesis import given
from hypothesis import strategies as st

from cellwork_worker.redaction import Redaction


def fed(redaction: Redaction, *chunks: bytes) -> bytes:
    return b"".join(redaction.feed(1, chunk) for chunk in chunks) + redaction.close(1)


@given(st.lists(st.sampled_from([b"hunter2", b"hunt", b"er2", b"h", b"\n", b"x"]), max_size=20))
def test_it_makes_no_difference_where_the_output_is_cut(pieces: list[bytes]):
    whole = b"".join(pieces)
    assert fed(Redaction(["hunter2"]), *pieces) == whole.replace(b"hunter2", b"[redacted]")


def test_the_streams_are_apart():
    redaction = Redaction(["hunter2"])
    assert redaction.feed(1, b"hunt") + redaction.feed(2, b"er2") == b"er2"
    assert redaction.close(1) == b"hunt"


def test_only_what_may_begin_a_secret_is_held_back():
    assert Redaction(["hunter2"]).feed(1, b"a line, then hun") == b"a line, then "
    assert Redaction([]).feed(1, b"hun") == b"hun"


def test_the_longest_value_wins_and_lines_of_a_key_count_by_themselves():
    assert fed(Redaction(["abcd", "abcdefgh"]), b"abcdefgh abcd") == b"[redacted] [redacted]"
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBg\n-----END KEY-----"
    assert fed(Redaction([key]), b"> MIIEvQIBADANBg\n") == b"> [redacted]\n"


def test_values_are_searched_to_the_bottom():
    value = {"a": ["x hunter2 y", {"hunter2": b"hunter2"}, 3, None]}
    assert Redaction(["hunter2"]).value(value) == {"a": ["x [redacted] y", {"[redacted]": b"[redacted]"}, 3, None]}
