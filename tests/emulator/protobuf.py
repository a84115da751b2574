"""The one object that kubectl sends in Kubernetes' protobuf (``k8s.io/api/core/v1/generated.proto``): a Secret."""

import base64
from collections.abc import Iterator
from typing import Any

#: In front of every such body.
_MAGIC = b"k8s\x00"


def secret(body: bytes) -> dict[str, Any]:
    """As JSON has it."""
    assert body.startswith(_MAGIC)
    unknown = dict(_fields(body[len(_MAGIC) :]))
    meaning = {number: text.decode() for number, text in _fields(unknown[1])}
    assert (meaning[1], meaning[2]) == ("v1", "Secret")
    document: dict[str, Any] = {"apiVersion": "v1", "kind": "Secret", "metadata": {}, "data": {}}
    for number, value in _fields(unknown[2]):
        if number == 1:
            document["metadata"]["name"] = dict(_fields(value))[1].decode()
        elif number == 2:
            pair = dict(_fields(value))
            document["data"][pair[1].decode()] = base64.b64encode(pair[2]).decode()
        elif number == 3 and value:
            document["type"] = value.decode()
    return document


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each field that has a length; numbers are left out."""
    at = 0
    while at < len(message):
        key, at = _number(message, at)
        length, at = _number(message, at)
        if key & 7 == 2:
            yield key >> 3, message[at : at + length]
            at += length


def _number(message: bytes, at: int) -> tuple[int, int]:
    """And where the next one begins."""
    number = shift = 0
    while True:
        byte = message[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at
