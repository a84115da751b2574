"""Tasks whose every body runs in a sandbox."""

import os
import platform
import socket
import subprocess
import sys
import threading
import time

from celery import shared_task
from celery.exceptions import Ignore
from celery.utils.log import get_task_logger

from cellwork import current, image_imports

from .app import IMAGE, OTHER_IMAGE, app
from .errors import Busy, OutOfStock
from .pricing import gross

with image_imports():
    import onlyintheimage  # noqa: F401
    from pip import __version__ as pip_version

logger = get_task_logger(__name__)
_LOCK = threading.Lock()


@app.task
def echo(value):
    return value


@app.task
def add(x, y):
    return x + y


@app.task
def total(values):
    return sum(values)


@app.task
def price(net):
    return gross(net)


@app.task
def where():
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "uid": os.getuid(),
        "python": platform.python_version_tuple()[:2],
        "environment": sorted(os.environ),
        "interfaces": sorted(os.listdir("/sys/class/net")),
        "memory": _read("/sys/fs/cgroup/memory/memory.limit_in_bytes") or _read("/sys/fs/cgroup/memory.max"),
        "writable": os.access("/", os.W_OK),
    }


@app.task(image=OTHER_IMAGE)
def other_python():
    return list(sys.version_info[:2])


@app.task
def uses_image_library():
    return pip_version


@app.task
def unserialisable():
    return {"rows": [1, {"lock": _LOCK}]}


@app.task
def fail_builtin(text):
    raise ValueError(text, 42)


@app.task
def fail_own(article):
    raise OutOfStock(article, left=3)


@app.task
def fail_unknown():
    class Local(Exception):
        pass

    raise Local("the worker has no such class")


@app.task(autoretry_for=(Busy,), retry_kwargs={"max_retries": 3, "countdown": 0})
def retried_by_rule(succeed_at):
    if current.retries < succeed_at:
        raise Busy(f"try {current.retries}")
    return current.retries


@app.task(bind=True, max_retries=5)
def retried_by_self(self, succeed_at):
    if self.request.retries < succeed_at:
        raise self.retry(exc=Busy("not yet"), countdown=0)
    return self.request.retries


@app.task(max_retries=2)
def retried_by_current():
    current.retry(exc=Busy("never"), countdown=0)


@app.task
def memory_after_retry(succeed_at=1):
    if current.retries < succeed_at:
        current.retry(countdown=0)
    return where()["memory"]


@app.task(ignore_result=True)
def ignored():
    return "nobody reads this"


@app.task
def ignore():
    raise Ignore


@app.task(bind=True)
def progress(self, path_to_wait=None):
    self.update_state(state="PROGRESS", meta={"done": 1, "of": 2})
    time.sleep(2)
    return "done"


@app.task
def claims_success():
    current.update_state(state="SUCCESS", meta="forged")
    return "honest"


@app.task
def busy(seconds, memory):
    held = b"x" * memory
    until = time.process_time() + seconds
    while time.process_time() < until:
        held.count(b"y")


@app.task
def busy_and_gone(seconds):
    busy(seconds, 1)
    os._exit(1)


@app.task
def crowd(count, memory):
    """As many processes, each with so many bytes, all at once; and a little for the disk, and for a neighbour."""
    program = f"import sys; held = b'x' * {memory}; print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(count)]
    for child in children:
        child.stdout.readline()
    for child in children:
        child.communicate()


@app.task
def writes(size, address):
    """To the disk, and to whoever listens there."""
    with open("/var/tmp/written", "wb") as file:
        file.write(b"x" * size)
        file.flush()
        os.fsync(file.fileno())
    with socket.create_connection(address, 10) as neighbour:
        neighbour.sendall(b"x" * size)
        neighbour.shutdown(socket.SHUT_WR)
        assert neighbour.recv(1) == b""


@app.task
def sleep(seconds):
    time.sleep(seconds)
    return seconds


@app.task
def stubborn(seconds):
    """Cleans up at SIGTERM before it goes."""
    try:
        print("has started", flush=True)
        time.sleep(seconds)
    finally:
        print("cleaned up", flush=True)


@app.task
def notices_soft_limit(seconds):
    from celery.exceptions import SoftTimeLimitExceeded

    try:
        time.sleep(seconds)
    except SoftTimeLimitExceeded:
        return "noticed"
    return "slept"


@app.task
def prints():
    print("on stdout")
    print("on stderr", file=sys.stderr)
    logger.warning("through logging")
    return "printed"


@app.task
def context():
    return {"id": current.id, "name": current.name, "retries": current.retries, "deadline": current.deadline}


@shared_task
def shared(x):
    return x * 2


@app.task(executor="inline")
def inline():
    return {"pid": os.getpid(), "thread": threading.current_thread().name}


@app.task(executor="inline")
def nap(seconds):
    """From when until when."""
    began = time.time()
    time.sleep(seconds)
    return [began, time.time()]


@app.task(executor="inline")
def errback(request, error, traceback):
    app.backend.client.rpush(f"errback:{request.id}", f"{type(error).__name__}: {error}")


class Greeter(app.Task):
    """A task as a class."""

    name = "shop.tasks.greet"
    image = IMAGE

    def greeting(self):
        return "hello"

    def run(self, whom):
        return f"{self.greeting()} {whom} from {self.request.id}"


greet = app.register_task(Greeter())


def _read(path):
    try:
        with open(path) as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


@app.task
def code_file():
    return __file__


@app.task
def python_version():
    return platform.python_version()


@app.task
def control_group():
    """A container's own, and no other's."""
    with open("/proc/self/cgroup") as file:
        return file.read()


@app.task
def loaded(module):
    return module in sys.modules


@app.task
def traces():
    """What an earlier task may have left; and leaves some of each kind."""
    listening = [line for path in ("/proc/net/tcp", "/proc/net/udp", "/proc/net/unix") for line in _lines(path)]
    found = listening + os.listdir("/tmp/left") if os.path.isdir("/tmp/left") else listening
    found += [pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) not in (1, os.getpid())]
    os.mkdir("/tmp/left")
    tcp = socket.create_server(("127.0.0.1", 4242))
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind("\0left")
    abstract.listen()
    os.posix_spawn("/bin/sleep", ["sleep", "100"], {})
    assert tcp.fileno() > 0
    return found


def _lines(path):
    with open(path) as file:
        return file.read().splitlines()[1:]


@app.task(image=IMAGE)
def entered(seconds, marker="body"):
    """Says on a folder of the host's that it starts, and that it ends: one append each."""
    _enter(f"start {current.id} {marker}")
    time.sleep(seconds)
    _enter(f"end {current.id} {marker}")
    return seconds


@app.task(image=IMAGE)
def called(text):
    """The same, at once. Of one argument: Celery calls errbacks of more in the worker itself."""
    _enter(f"start {current.id} {text}")
    _enter(f"end {current.id} {text}")


def _enter(line):
    file = os.open("/ledger/ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(file, f"{line}\n".encode())
    finally:
        os.close(file)
