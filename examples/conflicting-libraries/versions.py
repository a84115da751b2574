"""Two tasks of one module, with two versions of a library that cannot be installed together."""

import os

from celery import Celery

from cellwork import Image, configure, image_imports

# Each sandbox imports what its own image has; the worker needs neither.
with image_imports():
    import packaging
    from packaging.version import parse

app = configure(Celery("versions"))

PYTHON = Image(os.environ.get("CELLWORK_BASE_IMAGE", "python:3.12-slim"))


@app.task(image=PYTHON.pip("packaging==21.3"))
def sort_with_21(versions):
    return sort(versions)


@app.task(image=PYTHON.pip("packaging==25.0"))
def sort_with_25(versions):
    return sort(versions)


def sort(versions):
    """Oldest first, as the library of this sandbox sees it; beside them what it does not take for a version."""
    parsed, refused = [], []
    for version in versions:
        try:
            parsed.append(parse(version))
        except ValueError as error:
            refused.append(str(error))
    return {
        "library": f"packaging {packaging.__version__}",
        "sorted": [str(v) for v in sorted(parsed)],
        "refused": refused,
    }
