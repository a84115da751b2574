"""The runner as one argument of ``python3 -c``: injected, so any image with Python 3.8 or newer works as it is."""

import base64
import functools
import json
import zlib
from pathlib import Path

from cellwork import imports

_RUNNER = Path(__file__).parent / "runner"

#: Shared with the producer's side, where it means the same.
_IMPORTS = Path(imports.__file__)

#: Makes a package of the sources in memory: nothing is written, so a read-only sandbox will do.
_LOADER = """\
import binascii,json,sys,zlib
S=json.loads(zlib.decompress(binascii.a2b_base64({packed!r})))
P="_cellwork_runner"
T=type(sys);m=T(P);m.__path__=[];sys.modules[P]=m
for n in {order!r}:
 m=T(P+"."+n);m.__package__=P;sys.modules[P+"."+n]=m;setattr(sys.modules[P],n,m)
 exec(compile(S[n],"<"+P+"/"+n+".py>","exec"),m.__dict__)
sys.modules[P+".main"].main()
"""

#: Each after those that it imports.
_ORDER = ("wire", "codec", "task", "imports", "standins", "output", "archive", "body", "usage", "main")


@functools.cache
def bootstrap() -> str:
    """The program's text; some 18 KB, far below the 128 KiB that Linux allows for one argument."""
    files = {name: _RUNNER / f"{name}.py" for name in _ORDER} | {"imports": _IMPORTS}
    sources = {name: file.read_text() for name, file in files.items()}
    packed = base64.b64encode(zlib.compress(json.dumps(sources).encode(), 9))
    return _LOADER.format(packed=packed, order=_ORDER)
