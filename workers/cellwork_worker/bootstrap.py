"""The runner as it gets into a sandbox: injected, so any image with Python 3.8 or newer works as it is."""

import functools
import marshal
import struct
import zlib
from importlib.util import MAGIC_NUMBER
from pathlib import Path

from cellwork import imports

_RUNNER = Path(__file__).parent / "runner"

#: Shared with the producer's side, where it means the same.
_IMPORTS = Path(imports.__file__)

#: Exit status where standard input ended before the task had come: nothing ran. And what is printed before: see the
#: same in runner/main.py and runner/wire.py, which take over from here.
NO_PAYLOAD = 75
NO_TASK = b"\ncellwork: standard input ended before the task came; nothing was run\n"

#: Seconds without a byte of it after which it is given up, as in runner/main.py.
_PATIENCE = 60

#: The argument of ``python3 -c``: reads `program` from standard input and makes a package of it in memory, as nothing
#: can be written in a read-only sandbox. An engine copies and stores arguments many times: 60 KB of them were an eighth
#: of what a container costs it (docs/benchmarks.md). As process 1, a signal without a handler would be ignored.
LOADER = f"""\
import _signal, marshal, os, sys, zlib

def leave(*_):
    try:
        os.write(1, {NO_TASK!r})
    finally:
        os._exit({NO_PAYLOAD})

def read(size):
    data = b""
    while len(data) < size:
        _signal.alarm({_PATIENCE})
        piece = os.read(0, size - len(data))
        _signal.alarm(0)
        if not piece:
            leave()
        data += piece
    return data

for number in _signal.SIGALRM, _signal.SIGURG:
    _signal.signal(number, leave)
_signal.signal(_signal.SIGTERM, lambda number, frame: os._exit(128 + number))
names, magic, compiled, sources = marshal.loads(zlib.decompress(read(int.from_bytes(read(4), "big"))))
if getattr(sys.modules.get("_frozen_importlib_external"), "MAGIC_NUMBER", b"") == magic:
    codes = marshal.loads(compiled)
else:
    codes = [compile(source, "<_cellwork_runner/%s.py>" % name, "exec") for name, source in zip(names, sources)]
Module = type(sys)
package = sys.modules["_cellwork_runner"] = Module("_cellwork_runner")
package.__path__ = []
for name, code in zip(names, codes):
    module = sys.modules["_cellwork_runner." + name] = Module("_cellwork_runner." + name)
    module.__package__ = "_cellwork_runner"
    setattr(package, name, module)
    exec(code, module.__dict__)
package.main.main()
"""

#: Each after those that it imports.
_ORDER = ("text", "wire", "codec", "task", "imports", "standins", "output", "archive", "body", "usage", "main")

#: Of marshal's formats: the newest that Python 3.8 reads of plain values.
_MARSHAL = 2


@functools.cache
def program(*, ready: bool = True) -> bytes:
    """What `LOADER` reads: four bytes of length, and so many of the runner's code, packed.

    Args:
        ready: with its code compiled for Pythons of the worker's version: three times as long. Another one compiles the
            sources, which takes it longer than all that the runner does for a short task.
    """
    files = {name: _RUNNER / f"{name}.py" for name in _ORDER} | {"imports": _IMPORTS}
    sources = [files[name].read_text() for name in _ORDER]
    # Without docstrings and assertions, of which nothing is read there.
    compiled = [
        compile(source, f"<_cellwork_runner/{name}.py>", "exec", dont_inherit=True, optimize=2)
        for name, source in zip(_ORDER, sources, strict=True)
    ]
    code = (_ORDER, MAGIC_NUMBER, marshal.dumps(compiled), sources) if ready else (_ORDER, b"none", b"", sources)
    packed = zlib.compress(marshal.dumps(code, _MARSHAL), 9)
    return struct.pack(">I", len(packed)) + packed
