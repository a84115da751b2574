"""An application whose tasks declare their images. The tests write the files of these into PANTRY_ROOT."""

import os

from celery import Celery

from cellwork import Image, command, configure, image_imports

with image_imports():
    import six

app = configure(
    Celery(os.environ.get("PANTRY_NAME", "pantry")),
    installation=os.environ.get("PANTRY_INSTALLATION", "pantry"),
    defaults={"memory": "128m", "warm": False},
    infra_backoff=0.1,
    policy={"build": os.environ.get("PANTRY_BUILD", "allow")},
)

PYTHON = Image("cellwork/python:base", name="pantry-python", root=os.environ.get("PANTRY_ROOT", ""))
BUSYBOX = Image("cellwork/busybox:base", name="pantry-busybox", root=os.environ.get("PANTRY_ROOT", ""))

OLD = PYTHON.copy("stock").pip("six==1.16.0")
NEW = PYTHON.copy("stock").pip("six==1.17.0")
REMOTE = BUSYBOX
if "PANTRY_REGISTRY" in os.environ:
    from msgspec.structs import replace  # only here: a sandbox has no msgspec

    REMOTE = replace(BUSYBOX, registry=os.environ["PANTRY_REGISTRY"])

SHELF = REMOTE.copy("stock", "/stock").env(PRICE="5 $")
BROKEN = BUSYBOX.env(PANTRY=app.main).run("echo flour is out; echo \"$(printf '\\033[31m')\" sugar too >&2; exit 3")


@app.task(image=OLD)
def old():
    return six.__version__


@app.task(image=NEW)
def new():
    return six.__version__


@command(app, image=SHELF)
def shelf():
    return ["sh", "-c", 'cat /stock/flour; echo "$PRICE"']


@command(app, image=BROKEN)
def broken():
    return ["true"]
