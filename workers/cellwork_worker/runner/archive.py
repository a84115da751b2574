"""Unpacking the code: a zip file, read without the zipfile module, whose import takes longer than all of this."""

import importlib.machinery
import os
import struct
import sys
import time
import zlib

_DIRECTORY_END, _ENTRY = b"PK\5\6", b"PK\1\2"

#: Bytes of source that are compiled ahead of need: some 50 ms of work, and as many bytes of its /tmp again.
_MOST_COMPILED = 128 << 10


def unpack(data):
    """Write the zip file's entries into a new folder; return that. Entries are stored or deflated."""
    root = _folder()
    for name, content in _entries(data):
        where = os.path.realpath(os.path.join(root, name))
        if not where.startswith(root + os.sep):
            raise RuntimeError("the code bundle holds %r, which is outside of it" % (name,))
        if name.endswith("/"):
            os.makedirs(where, exist_ok=True)
            continue
        os.makedirs(os.path.dirname(where), exist_ok=True)
        with open(where, "wb") as file:
            file.write(content)
    return root


def compile_ahead(root):
    """Leave the code under `root` compiled beside its source, as importing it would, unless that is long."""
    sources = [os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names]
    sources = [path for path in sources if path.endswith(".py")]
    if sum(map(os.path.getsize, sources)) > _MOST_COMPILED:
        return
    import warnings

    written, sys.dont_write_bytecode = sys.dont_write_bytecode, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for path in sources:
                _compile(path)
    finally:
        sys.dont_write_bytecode = written


def _compile(path):
    try:
        importlib.machinery.SourceFileLoader("ahead", path).get_code("ahead")
    except Exception:
        pass  # an error or a warning, for whoever imports it


def _folder():
    """A new one, that nobody else may read: a process without isolation shares /tmp with others."""
    parent = os.path.realpath(os.environ.get("TMPDIR") or "/tmp")  # noqa: S108 - inside the sandbox
    while True:
        root = os.path.join(parent, "cellwork-%d-%x" % (os.getpid(), time.time_ns()))
        try:
            os.mkdir(root, 0o700)
        except FileExistsError:
            continue
        return root


def _entries(data):
    """Name and content of each (PKWARE's APPNOTE, sections 4.3.7, 4.3.12 and 4.3.16)."""
    end = data.rfind(_DIRECTORY_END)
    if end < 0:
        raise RuntimeError("the code bundle is no zip file")
    count, _, at = struct.unpack_from("<HLL", data, end + 10)
    if count == 0xFFFF:
        raise RuntimeError("the code bundle has more than 65,534 files; build them into the image")
    for _ in range(count):
        if data[at : at + 4] != _ENTRY:
            raise RuntimeError("the code bundle is broken at byte %d" % at)
        (flags, method), (size, _, name_size, extra, comment), (local,) = (
            struct.unpack_from(form, data, at + offset) for form, offset in (("<HH", 8), ("<LLHHH", 20), ("<L", 42))
        )
        name = data[at + 46 : at + 46 + name_size].decode("utf-8" if flags & 0x800 else "cp437")
        start = local + 30 + sum(struct.unpack_from("<HH", data, local + 26))
        content = data[start : start + size]
        yield name, zlib.decompress(content, -zlib.MAX_WBITS) if method else content
        at += 46 + name_size + extra + comment
