"""The demo's tasks: the IANA time zone table, looked at with libraries that cannot be installed together."""

import os

from cellwork import command, image_imports

from .app import app
from .table import southern, split

with image_imports():
    import pydantic

#: Two images with one library in two incompatible versions. Without containers, two environments with them.
ONE = {"image": "cellwork-demo/pydantic:1", "python": os.environ.get("DEMO_PYTHON_1")}
TWO = {"image": "cellwork-demo/pydantic:2", "python": os.environ.get("DEMO_PYTHON_2")}
BASE = os.environ.get("CELLWORK_BASE_IMAGE", "python:3.12-slim")


def _validate(text):
    class Zone(pydantic.BaseModel):
        line: str
        countries: str
        name: str

    accepted, complaint = 0, None
    for number, (countries, _, name) in enumerate(split(text)):
        try:
            Zone(line=number, countries=countries, name=name)
        except ValueError as error:
            complaint = str(error).splitlines()[2].strip()
        else:
            accepted += 1
    return {"library": f"pydantic {pydantic.VERSION}", "accepted": accepted, "complaint": complaint}


@app.task(**ONE)
def validate_with_1(text):
    return _validate(text)


@app.task(**TWO)
def validate_with_2(text):
    return _validate(text)


@app.task(image=BASE)
def rows(text):
    return split(text)


@app.task(image=BASE)
def southernmost(found):
    return southern(found)[0]


@app.task(image=BASE)
def sentence(row):
    countries, position, name = row
    return f"{name} ({countries}) at {position}"


@app.task(image=BASE)
def fails(text):
    return split(text)[0][17]


@command(app, image=os.environ.get("DEMO_BUSYBOX", "busybox:stable"))
def checksum(text):
    return ["sh", "-c", 'printf %s "$0" | sha256sum | cut -c -12', text]
