"""The diagram of docs/protocol.md is the runner's life: the real one is led along its arrows, and takes no others."""

import io
import json
import os
import signal
import subprocess
import sys
import zipfile

import pytest
from pages import diagrams
from pages.blocks import blocks

from cellwork_worker.bootstrap import LOADER, program
from cellwork_worker.frames import Frame, FrameParser
from cellwork_worker.launch import pack

NONCE = "5a" * 16

#: What is printed where the payload's time has come; see "Payload" there.
READY = b"\n\0cellwork-ready\n"
NO_TASK = b"\ncellwork: standard input ended before the task came; nothing was run\n"

BODY = """
from cellwork import current
def tells(): current.update_state("HALF", {"done": 1})
def fails(): raise LookupError("on purpose")
def ends():
    import os, signal
    current.update_state("HALF")
    os.kill(os.getpid(), signal.SIGTERM)
"""

RUN = ["usage frame", "end frame", "outcome frame"]
DONE = [*RUN, "end of input, status 0"]
GONE = "end of input, no-task line, status 75"

#: How far the payload comes, the runner's arguments, the body; and what is seen.
LIVES = {
    "tells": (2, (), ["first part", "second part", "state frame", *DONE]),
    "fails": (2, (), ["first part", "second part", *DONE]),
    "lost": (2, (), ["first part", "second part", *DONE]),
    "tells, warm": (2, ("warm",), ["first part", "ready line", "second part", "state frame", *DONE]),
    "ends": (2, (), ["first part", "second part", "state frame", "SIGTERM, status 143"]),
    "tells, no payload": (0, (), [GONE]),
    "tells, half a payload": (1, (), ["first part", GONE]),
    "tells, warm, half a payload": (1, ("warm",), ["first part", "ready line", GONE]),
}


def payload(function: str) -> list[bytes]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as bundle:
        bundle.writestr("tasks.py", BODY)
    first = pack(json.dumps({"code": "ship", "preload": []}), archive.getvalue())
    header = {
        "nonce": NONCE,
        "task": {"id": "an-id", "name": "shop.run", "retries": 0, "max_retries": 3},
        "target": {"module": "tasks", "qualname": function, "bind": False},
        "args": [],
        "kwargs": {},
        "soft_time_limit": None,
        "time_limit": None,
        "result_max_bytes": 1 << 20,
    }
    return [first, pack(json.dumps(header))]


def seen(name: str, tmp_path: str) -> list[str]:
    """What a runner does that is led so: what it reads, prints, and ends with."""
    parts, arguments, _ = LIVES[name]
    given = payload(name.split(",")[0])[:parts]
    ran = subprocess.run(
        [sys.executable, "-c", LOADER, *arguments],
        input=program() + b"".join(given),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # one pipe, so that the order shows
        env={"PATH": os.defpath, "TMPDIR": str(tmp_path)},
        timeout=60,
        check=False,
    )
    parser = FrameParser(NONCE, 1 << 20)
    found = [*parser.feed(ran.stdout), parser.close()]
    printed = b"".join(item for item in found if isinstance(item, bytes))
    assert printed in (b"", READY, NO_TASK, READY + NO_TASK)
    events = ["first part"] * (parts > 0) + ["ready line"] * printed.startswith(READY) + ["second part"] * (parts > 1)
    events += [f"{item.kind} frame" for item in found if isinstance(item, Frame)]
    ended = "SIGTERM" if ran.returncode == 128 + signal.SIGTERM else "end of input"
    ended += ", no-task line" * printed.endswith(NO_TASK)
    return [*events, f"{ended}, status {ran.returncode}"]


@pytest.fixture(scope="module")
def arrows():
    (block,) = blocks("docs/protocol.md", "mermaid")
    return diagrams.states(block.text.partition("\n")[2])


@pytest.mark.parametrize("name", LIVES)
def test_the_runner_goes_the_ways_of_the_diagram(name, arrows, tmp_path):
    events = seen(name, tmp_path)
    assert events == LIVES[name][2]
    (here,) = [to for start, to, label in arrows if start == "[*]" and not label]
    for event in events:
        onwards = [to for start, to, label in arrows if (start, label) == (here, event)]
        assert len(onwards) == 1, f"the diagram has no way from {here} by {event!r}"
        here = onwards[0]
    assert here == "[*]"


def test_each_arrow_is_one_that_a_runner_takes_here(arrows):
    walked = {event for _, _, events in LIVES.values() for event in events}
    assert {label for _, _, label in arrows} - {""} == walked
