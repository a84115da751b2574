"""The proxy itself: one request a connection, so that nothing can follow it unseen."""

import asyncio
import http.client
import io
import json
import logging
from contextlib import suppress
from email.message import Message
from http import HTTPStatus

from cellwork.printable import printable

from . import calls, containers
from .calls import Call, Refused
from .containers import Allowed

logger = logging.getLogger("cellwork.engineproxy")

#: Bytes of a request's head, and of the description of a container to create.
HEAD_BYTES, _CREATE_BYTES = 1 << 16, 1 << 20

#: Seconds until both must have come.
_REQUEST_SECONDS = 60.0

#: Bytes of the engine's answer about one container.
_INSPECT_BYTES = 4 << 20

#: Containers of ours whose ids are remembered; then all are asked for again.
_KNOWN = 10_000

_PIECE = 1 << 16

#: Characters of a refusal.
_MESSAGE_LENGTH = 500

#: What the engine needs to be told, beside what is written anew.
_FORWARDED = ("Content-Type", "X-Registry-Auth", "X-Registry-Config")


class Missing(Exception):
    """There is no such container."""


class Door:
    """Takes the connections of workers, and opens one of its own to the engine for each."""

    def __init__(self, engine: str, allowed: Allowed) -> None:
        """`engine`: path of its socket."""
        self._engine = engine
        self._allowed = allowed
        self._ours: set[str] = set()
        #: The event loop itself keeps no task alive.
        self._served: set[asyncio.Task[None]] = set()

    def enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Begin to serve one connection."""
        task = asyncio.create_task(self._enter(reader, writer))
        self._served.add(task)
        task.add_done_callback(self._served.discard)

    async def _enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        except Refused as error:
            # It quotes what was asked for, which may be long, and may be made for a terminal to obey.
            message = printable(str(error))[:_MESSAGE_LENGTH]
            logger.warning("refused: %s", message)
            await _answer(writer, HTTPStatus.FORBIDDEN, message)
        except Missing as error:
            await _answer(writer, HTTPStatus.NOT_FOUND, f"No such container: {error}")
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            # To the worker this is an engine that does not answer, which it knows to bear.
            logger.info("a connection ended early: %s", error or type(error).__name__)
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(_REQUEST_SECONDS):
            method, target, headers = await _read_head(reader)
            call = calls.check(method, target, self._allowed.installation)
            target = call.target(await self._id_of_ours(call.container) if call.container else "")
            length = _length(call, headers)
            body = b""
            if call.kind == "create" and length:
                body = await self._container(await reader.readexactly(length))
                length = len(body)
        upstream_reader, upstream_writer = await asyncio.open_unix_connection(self._engine)
        try:
            upstream_writer.write(_head(call, target, headers, length) + body)
            await _copy(reader, upstream_writer, length - len(body))
            head = await upstream_reader.readuntil(b"\r\n\r\n")
            writer.write(head)
            await writer.drain()
            if head[9:12] == b"101":
                await _both_ways(reader, writer, upstream_reader, upstream_writer)
            else:
                await _one_way(reader, writer, upstream_reader)
        finally:
            upstream_writer.close()

    async def _container(self, body: bytes) -> bytes:
        body, joined = containers.check(body, self._allowed)
        if joined:
            await self._id_of_ours(joined)
        return body

    async def _id_of_ours(self, reference: str) -> str:
        """The id of a container, by id or name: nobody can give that to another one.

        Raises:
            Missing: there is none.
            Refused: it is not one of this installation's.
        """
        if reference in self._ours:
            return reference
        if not calls.CONTAINER_NAME.fullmatch(reference):
            raise Refused(f"{reference!r} is no name of a container")
        reader, writer = await asyncio.open_unix_connection(self._engine, limit=_INSPECT_BYTES)
        try:
            # As HTTP/1.0 the answer is not cut into chunks, and ends with the connection.
            writer.write(f"GET /containers/{reference}/json HTTP/1.0\r\n\r\n".encode("ascii"))
            head, _, content = (await reader.read(-1)).partition(b"\r\n\r\n")
        finally:
            writer.close()
        status = head[9:12]
        if status == b"404":
            raise Missing(reference)
        if status != b"200":
            raise ConnectionError(f"the engine says of container {reference}: {head[:100]!r}")
        found = json.loads(content)
        if (found["Config"]["Labels"] or {}).get("cellwork.installation") != self._allowed.installation:
            raise Refused(f"container {reference} is not one of installation {self._allowed.installation}")
        if len(self._ours) >= _KNOWN:
            self._ours.clear()
        self._ours.add(found["Id"])
        return str(found["Id"])


async def _read_head(reader: asyncio.StreamReader) -> tuple[str, str, Message]:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        line, _, rest = head.partition(b"\r\n")
        method, target, _ = line.decode("ascii").split(" ")
        return method, target, http.client.parse_headers(io.BytesIO(rest))
    except (ValueError, asyncio.LimitOverrunError, http.client.HTTPException) as error:
        raise Refused(f"not a request that the engine's proxy understands: {error}") from None


def _length(call: Call, headers: Message) -> int:
    """Bytes of the request's body."""
    given = headers.get("Content-Length") or "0"
    if "Transfer-Encoding" in headers or not (given.isascii() and given.isdecimal()):
        raise Refused(f"{call.method} {call.path}: a body needs its length in Content-Length")
    length = int(given)
    most = {"create": _CREATE_BYTES, "build": length}.get(call.kind, 0)
    if length > most:
        raise Refused(f"{call.method} {call.path}: a body of {length} bytes; at most {most} are expected")
    return length


def _head(call: Call, target: str, headers: Message, length: int) -> bytes:
    lines = [f"{call.method} {target} HTTP/1.1", "Host: docker"]
    # A value that was folded over several lines becomes one line.
    lines += [f"{name}: {' '.join(headers[name].split())}" for name in _FORWARDED if name in headers]
    lines += [f"Content-Length: {length}", "Connection: close"]
    if call.kind == "attach":
        lines.append("Upgrade: tcp")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def _answer(writer: asyncio.StreamWriter, status: HTTPStatus, message: str) -> None:
    body = json.dumps({"message": message}).encode()
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
    with suppress(OSError):  # it has gone
        writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode("ascii") + body)
        await writer.drain()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, length: int) -> None:
    """`length` bytes. What comes before an end that is too early is not acted upon: the engine waits for the rest."""
    while length > 0:
        piece = await reader.read(min(length, _PIECE))
        if not piece:
            raise ConnectionResetError("the worker left in the middle of a request")
        length -= len(piece)
        writer.write(piece)
        await writer.drain()
    await writer.drain()


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Everything, and then the end."""
    while piece := await reader.read(_PIECE):
        writer.write(piece)
        await writer.drain()
    writer.write_eof()


async def _both_ways(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    upstream_reader: asyncio.StreamReader,
    upstream_writer: asyncio.StreamWriter,
) -> None:
    """The streams of a container: no request of the API any more. Standard input may end before its output does."""
    down = asyncio.create_task(_relay(upstream_reader, writer))
    up = asyncio.create_task(_relay(reader, upstream_writer))
    try:
        await down
    finally:
        up.cancel()
        await asyncio.gather(up, return_exceptions=True)


async def _one_way(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upstream_reader: asyncio.StreamReader
) -> None:
    """The engine's answer, until it ends or the worker leaves. What else the worker sends is not read as a request."""
    down = asyncio.create_task(_relay(upstream_reader, writer))
    gone = asyncio.create_task(reader.read(1))
    try:
        await asyncio.wait((down, gone), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (down, gone):
            task.cancel()
        # Also of one that is over: that its connection broke is an end like any other.
        await asyncio.gather(down, gone, return_exceptions=True)
    if down.done() and not down.cancelled():
        down.result()
