"""A fuzz run of the frame parser: what the runner really sends, damaged, in chunks of any size.

``make fuzz EXAMPLES=50000`` is the long form.
"""

import importlib
import os
import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kombu.utils.json import dumps

from cellwork import outcome
from cellwork_worker.frames import FRAME_MAX_BYTES, Broken, Frame, FrameParser

NONCE = "0123456789abcdef" * 2
MARK = b"\n" + NONCE.encode() + b" "

#: The protocol in one line: what is no frame is output.
FRAME = re.compile(re.escape(MARK) + b"([^\n]{0,%d})\n" % (FRAME_MAX_BYTES - len(MARK) - 1))

#: Bytes of the largest message that is taken here, so that larger ones are met, too.
LIMIT = 5000

fuzzed = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "200")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

Wire = importlib.import_module("cellwork_worker.runner.wire").Wire


class Recorded(Wire):
    """The runner's own sender, into memory."""

    def __init__(self) -> None:
        self._nonce, self._lock, self._fds = NONCE.encode(), threading.Lock(), {1: 1}
        self.sent = b""

    def _write(self, fd: int, data: bytes) -> None:
        self.sent += data


def sent(message: tuple[str, object]) -> bytes:
    wire = Recorded()
    wire.send(message[0], dumps(message[1]))
    return wire.sent


#: Values whose JSON is short, or too long for one frame, or for the limit.
VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=20) | st.dates() | st.integers(3000, 7000).map("x".__mul__),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
MESSAGES = st.tuples(
    st.sampled_from(["state", "usage", "end"]), VALUES.filter(lambda value: len(dumps(value)) < LIMIT)
) | st.tuples(st.just("outcome"), VALUES.map(lambda value: {"status": "success", "value": value}))
#: What a task prints: also the beginnings of a frame, but never the whole nonce, which it cannot guess.
PRINTED = st.lists(
    st.binary(max_size=30) | st.sampled_from([b"\n", b"\n\n", MARK[:9], MARK[:-1][:30], b" {}\n", b"y" * 5000]),
    max_size=4,
).map(lambda pieces: b"".join(pieces).replace(NONCE.encode(), b""))
FRAGMENTS = st.sampled_from(
    [MARK, MARK[:-1], b"\n", b'{"kind": "outcome", "part": 0, "of": 2, "text": "1"}', b'"part": 1', b"\xff", b"[" * 300]
)
CUTS = st.lists(st.floats(0, 1), max_size=12)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    pieces = draw(st.lists(MESSAGES.map(sent) | PRINTED, min_size=1, max_size=5))
    stream = bytearray(b"".join(pieces))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(stream)))
        end = min(len(stream), start + draw(st.sampled_from([0, 1, 2, 40, 4096])))
        match draw(st.sampled_from(["drop", "double", "insert", "replace"])):
            case "drop":
                del stream[start:end]
            case "double":
                stream[end:end] = stream[start:end]
            case "insert":
                stream[start:start] = draw(FRAGMENTS)
            case "replace":
                stream[start:end] = draw(st.binary(max_size=20))
    return bytes(stream)


def chunked(stream: bytes, cuts: list[float]) -> Iterator[bytes]:
    places = sorted({0, len(stream), *(int(cut * len(stream)) for cut in cuts)})
    return (stream[a:b] for a, b in pairwise(places))


def read(stream: bytes, cuts: list[float]) -> tuple[bytes, list[Frame | Broken]]:
    """What the parser makes of it; and what it holds meanwhile is bounded."""
    parser = FrameParser(NONCE, LIMIT)
    parser._max_bytes = LIMIT
    output, messages = b"", []
    for chunk in chunked(stream, cuts):
        for item in parser.feed(chunk):
            if isinstance(item, bytes):
                output += item
            else:
                messages.append(item)
        assert len(parser._held) < FRAME_MAX_BYTES
        assert sum(map(len, parser._parts)) <= LIMIT
    return output + parser.close(), messages


@fuzzed
@given(damaged(), CUTS)
def test_a_damaged_stream_is_read_as_the_protocol_says_wherever_it_is_cut(stream: bytes, cuts: list[float]):
    output, messages = read(stream, cuts)
    assert output == FRAME.sub(b"", stream)
    assert len(messages) <= len(FRAME.findall(stream))
    assert (output, messages) == read(stream, [])
    for message in messages:
        if isinstance(message, Frame) and message.kind == "outcome":
            with suppress(outcome.InvalidDocument):
                outcome.parse(message.data)


@fuzzed
@given(st.lists(st.tuples(PRINTED, MESSAGES), max_size=4), PRINTED, CUTS)
def test_whatever_a_task_prints_between_them_all_messages_arrive(
    told: list[tuple[bytes, tuple[str, object]]], last: bytes, cuts: list[float]
):
    stream = b"".join(printed + sent(message) for printed, message in told) + last
    output, messages = read(stream, cuts)
    assert output == b"".join(printed for printed, _ in told) + last
    # What follows of one that was too large is broken, too.
    first = [message for message in messages if isinstance(message, Frame) or message.size is not None]
    for message, (_, (kind, data)) in zip(first, told, strict=True):
        assert message.kind == kind
        if len(dumps(data)) <= LIMIT:
            assert message == Frame(kind, outcome.loads(dumps(data)))
        else:
            assert isinstance(message, Broken)
            assert message.size is not None


@pytest.mark.parametrize("stream", [b"", MARK, MARK[:-1], MARK + b"\n", MARK * 3, MARK + b"x" * FRAME_MAX_BYTES])
def test_the_edges_of_a_frame_are_read_as_the_protocol_says(stream: bytes):
    one_by_one = [number / max(1, len(stream)) for number in range(len(stream))]
    assert read(stream, one_by_one)[0] == FRAME.sub(b"", stream)
