"""The runner as one argument of ``python3 -c``: injected, so any image with Python 3.8 or newer works as it is."""

import base64
import functools
import marshal
import zlib
from importlib.util import MAGIC_NUMBER
from pathlib import Path

from cellwork import imports

_RUNNER = Path(__file__).parent / "runner"

#: Shared with the producer's side, where it means the same.
_IMPORTS = Path(imports.__file__)

#: Makes a package of it in memory: nothing is written, so a read-only sandbox will do. Another Python than the worker's
#: compiles the sources, which takes it longer than all that the runner does for a short task.
_LOADER = """\
import binascii,marshal,sys,zlib
U=lambda b:zlib.decompress(binascii.a2b_base64(b))
P="_cellwork_runner"
F="<"+P+"/%s.py>"
T=type(sys);m=T(P);m.__path__=[];sys.modules[P]=m
N={order!r}
if getattr(sys.modules.get("_frozen_importlib_external"),"MAGIC_NUMBER",b"")=={magic!r}:
 C=marshal.loads(U({compiled!r}))
else:
 C=[compile(s,F%n,"exec") for n,s in zip(N,U({sources!r}).decode().split("\\0"))]
for n,c in zip(N,C):
 m=T(P+"."+n);m.__package__=P;sys.modules[P+"."+n]=m;setattr(sys.modules[P],n,m)
 exec(c,m.__dict__)
sys.modules[P+".main"].main()
"""

#: Each after those that it imports.
_ORDER = ("text", "wire", "codec", "task", "imports", "standins", "output", "archive", "body", "usage", "main")


@functools.cache
def bootstrap(*, ready: bool = True) -> str:
    """The program's text, far below the 128 KiB that Linux allows for one argument.

    Args:
        ready: with its code compiled for Pythons of the worker's version: 60 KB instead of 20.
    """
    files = {name: _RUNNER / f"{name}.py" for name in _ORDER} | {"imports": _IMPORTS}
    sources = {name: file.read_text() for name, file in files.items()}
    # Without docstrings and assertions, of which nothing is read there.
    compiled = [
        compile(source, f"<_cellwork_runner/{name}.py>", "exec", dont_inherit=True, optimize=2)
        for name, source in sources.items()
    ]
    return _LOADER.format(
        order=_ORDER,
        magic=MAGIC_NUMBER if ready else b"none",
        compiled=_packed(marshal.dumps(compiled) if ready else b""),
        sources=_packed("\0".join(sources.values()).encode()),
    )


def _packed(data: bytes) -> bytes:
    return base64.b64encode(zlib.compress(data, 9))
