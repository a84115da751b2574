"""An application that declares one image, for ``cellwork images``."""

import os

from celery import Celery

from cellwork import Image, command, configure

app = configure(Celery(os.environ.get("PANTRY_NAME", "cupboard")))

SHELF = Image(
    "cellwork/busybox:base",
    root=os.environ.get("PANTRY_ROOT", ""),
    registry=os.environ.get("CUPBOARD_REGISTRY", ""),
)
SHELF = SHELF.env(PANTRY=app.main).env(PRICE=os.environ.get("CUPBOARD_PRICE", "5")).copy("stock", "/stock")
if "CUPBOARD_COMMAND" in os.environ:
    SHELF = SHELF.run(os.environ["CUPBOARD_COMMAND"])


if "CUPBOARD_SECRET_COMMAND" in os.environ:
    SHELF = SHELF.run(os.environ["CUPBOARD_SECRET_COMMAND"], secrets=("TOKEN", "KEY")).env(AFTER="it")


@command(app, image=SHELF)
def shelf():
    return ["cat", "/stock/flour"]
