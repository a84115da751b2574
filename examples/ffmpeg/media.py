"""ffmpeg as tasks: functions that return a command line. No Python of yours runs in these sandboxes."""

import os
from pathlib import Path

from celery import Celery

from cellwork import Image, command, configure

#: The folder with the films. Tasks see it as /media.
MEDIA = os.environ.get("MEDIA", str(Path(__file__).parent / "media"))

# The folder is allowed here, because where it is depends on where you put this; else it is a line of cellwork.toml:
# [cellwork.policy] volumes = ["/srv/media"].
app = configure(Celery("media"), policy={"volumes": [MEDIA]})

# One static ffmpeg of 80 MB. .apt("ffmpeg") does as well, and has ffprobe; its libraries are 400 MB.
IMAGE = (
    Image(os.environ.get("CELLWORK_BASE_IMAGE", "python:3.12-slim"), name="ffmpeg")
    .pip("imageio-ffmpeg==0.6.0")
    .run('ln -s "$(python3 -c "import imageio_ffmpeg as f; print(f.get_ffmpeg_exe())")" /usr/local/bin/ffmpeg')
)

#: Errors, warnings and one line of progress; what is there is written over.
FFMPEG = ["ffmpeg", "-hide_banner", "-loglevel", "warning", "-stats", "-y"]

SANDBOX = {
    "image": IMAGE,
    "volumes": [f"{MEDIA}:/media"],
    "workdir": "/media",
    # What it writes belongs to whoever runs the worker, as with docker run --user "$(id -u):$(id -g)".
    "user": f"{os.getuid()}:{os.getgid()}",
    "cpus": 2,
    "memory": "1g",
    "time_limit": 3600,
}


@command(app, **SANDBOX)
def trailer(target, seconds=5):
    """A test film with a tone, so that there is something to convert."""
    return [
        *FFMPEG,
        "-f", "lavfi", "-i", f"testsrc=duration={float(seconds)}:size=320x240:rate=25",
        "-f", "lavfi", "-i", f"sine=frequency=440:duration={float(seconds)}",
        "-c:v", "mpeg4", "-c:a", "aac", "-shortest", inside(target),
    ]  # fmt: skip


@command(app, **SANDBOX)
def convert(source, target):
    """Convert one file to another; the target's ending says to what."""
    return [*FFMPEG, "-i", inside(source), inside(target)]


def inside(name):
    """`name` as an argument that ffmpeg takes for a file, whatever it begins with, and for no address."""
    return f"file:{name}"
