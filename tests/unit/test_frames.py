"""The frame parser: whatever is fed, however it is cut."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellwork_worker.frames import FRAME_MAX_BYTES, Broken, Frame, FrameParser

NONCE = "0123456789abcdef" * 2
MARK = b"\n" + NONCE.encode() + b" "


def frame(kind: str, data: object) -> bytes:
    return MARK + json.dumps({"kind": kind, "data": data}).encode() + b"\n"


def parts(kind: str, data: object, size: int = 1000) -> bytes:
    text = json.dumps(data)
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    messages = [{"kind": kind, "part": i, "of": len(pieces), "text": piece} for i, piece in enumerate(pieces)]
    return b"".join(MARK + json.dumps(message).encode() + b"\n" for message in messages)


def read(*chunks: bytes, max_bytes: int = 1 << 20) -> tuple[bytes, list[Frame | Broken]]:
    parser = FrameParser(NONCE, max_bytes)
    output, messages = b"", []
    for chunk in chunks:
        for item in parser.feed(chunk):
            if isinstance(item, bytes):
                output += item
            else:
                messages.append(item)
    return output + parser.close(), messages


def test_a_frame_among_output_is_taken_out_and_the_output_is_left_as_it_was():
    output, messages = read(b"one\n" + frame("state", {"state": "X", "meta": 1}) + b"two\n")
    assert output == b"one\ntwo\n"
    assert messages == [Frame("state", {"state": "X", "meta": 1})]


def test_a_line_that_was_left_open_before_a_frame_is_delivered_as_it_was_printed():
    assert read(b"no line feed" + frame("usage", None)) == (b"no line feed", [Frame("usage", None)])


def test_a_message_in_parts_is_put_together():
    value = {"value": ["täxt", "x" * 20_000]}
    assert read(parts("outcome", value)) == (b"", [Frame("outcome", value)])


@pytest.mark.parametrize("nonce", [b"", b"0" * 32, NONCE.encode()[:-1], NONCE.upper().encode()])
def test_a_frame_with_a_wrong_nonce_is_output(nonce):
    forged = b"\n" + nonce + b' {"kind": "outcome", "data": 1}\n'
    assert read(forged) == (forged, [])


def test_a_frame_without_the_line_feed_in_front_is_output():
    forged = b"x" + frame("outcome", 1)[1:]
    assert read(forged) == (forged, [])


def test_a_frame_longer_than_is_allowed_is_output():
    long = frame("outcome", "x" * FRAME_MAX_BYTES)
    assert read(long + frame("usage", 1)) == (long, [Frame("usage", 1)])


def test_a_truncated_frame_at_the_end_is_output():
    cut = frame("outcome", {"a": 1})[:-1]
    assert read(cut) == (cut, [])


@pytest.mark.parametrize(
    "text",
    [b"nonsense", b"{", b"[]", b'{"kind": "unknown"}', b'{"kind": "outcome", "data": NaN}', b"[" * 3000, b"\xff\xfe"],
)
def test_what_is_no_message_is_broken_and_what_follows_is_read(text):
    output, messages = read(MARK + text + b"\n" + frame("usage", 1))
    assert output == b""
    assert isinstance(messages[0], Broken)
    assert messages[1:] == [Frame("usage", 1)]


@pytest.mark.parametrize(
    "numbers",
    [[(1, 2)], [(0, 2), (0, 2), (2, 2)], [(0, 3), (2, 3)], [("0", 1)], [(0, "1")], [(0, None)]],
)
def test_parts_out_of_order_are_broken(numbers):
    text = "".join(
        (MARK + json.dumps({"kind": "outcome", "part": part, "of": of, "text": "1"}).encode() + b"\n").decode()
        for part, of in numbers
    )
    _, messages = read(text.encode())
    assert [m for m in messages if isinstance(m, Broken)]
    assert not [m for m in messages if isinstance(m, Frame)]


def test_a_message_larger_than_the_limit_is_broken_and_not_kept():
    _, messages = read(parts("outcome", "x" * 3_000_000, size=3000), max_bytes=1000)
    assert isinstance(messages[0], Broken)
    assert "larger than" in messages[0].detail
    assert not [m for m in messages if isinstance(m, Frame)]


def test_a_flood_without_line_feeds_is_not_held_back():
    parser = FrameParser(NONCE, 1000)
    for _ in range(1000):
        assert b"".join(parser.feed(b"x" * 10_000)) == b"x" * 10_000  # type: ignore[arg-type]
    assert parser.close() == b""


OUTPUT = st.binary(max_size=80).map(lambda data: data.replace(NONCE.encode(), b""))
MESSAGES = st.builds(
    frame,
    st.sampled_from(["state", "usage"]),
    st.recursive(st.none() | st.integers(-9, 9) | st.text(max_size=20), st.lists, max_leaves=5),
)


@given(st.lists(OUTPUT | MESSAGES, max_size=8), st.randoms(use_true_random=False))
def test_it_makes_no_difference_where_the_stream_is_cut(pieces: list[bytes], chance: random.Random):
    stream = b"".join(pieces)
    cuts = sorted(chance.sample(range(len(stream) + 1), min(len(stream), chance.randint(0, 10))))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert read(*chunks) == read(stream)


@given(st.lists(st.sampled_from([MARK, b"\n", b"{", b"}", b'"', b"x" * 500, frame("usage", 1), NONCE.encode()])))
def test_nothing_makes_it_raise_or_hold_more_than_a_frame(pieces: list[bytes]):
    parser = FrameParser(NONCE, 1000)
    for piece in pieces:
        for _ in parser.feed(piece):
            pass
        assert len(parser._held) < FRAME_MAX_BYTES
