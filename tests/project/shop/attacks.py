"""Hostile bodies. Each tries something, and returns what happened inside."""

import ctypes
import errno
import itertools
import os
import resource
import signal
import socket
import struct
import sys
import threading
import time

from .app import app

#: Of x86-64 Linux.
SYSCALLS = {
    "ptrace": 101,
    "syslog": 103,
    "pivot_root": 155,
    "acct": 163,
    "settimeofday": 164,
    "mount": 165,
    "swapon": 167,
    "reboot": 169,
    "sethostname": 170,
    "init_module": 175,
    "delete_module": 176,
    "kexec_load": 246,
    "add_key": 248,
    "keyctl": 250,
    "unshare": 272,
    "perf_event_open": 298,
    "open_by_handle_at": 304,
    "setns": 308,
    "finit_module": 313,
    "bpf": 321,
    "userfaultfd": 323,
}


def refused(call, *args):
    """How the kernel refuses it; "allowed" if it does not."""
    try:
        call(*args)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, type(error).__name__)
    return "allowed"


def syscall(name, *args):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(SYSCALLS[name], *args) == -1:
        raise OSError(ctypes.get_errno(), name)


def nonce():
    """The runner's: a body that looks for it finds it, as both are one process."""
    frame = sys._getframe()
    while frame is not None:
        for value in frame.f_locals.values():
            if type(value).__name__ == "Wire":
                return value._nonce
        frame = frame.f_back
    raise LookupError("the runner keeps its nonce elsewhere")


@app.task
def calls(name, arguments):
    """One system call that no task needs."""
    given = [argument.encode() if isinstance(argument, str) else argument for argument in arguments]
    return refused(syscall, name, *given)


@app.task
def writes(path):
    def write():
        with open(path, "wb") as file:
            file.write(b"1")

    return refused(write)


@app.task
def reads(path):
    try:
        with open(path, "rb") as file:
            return file.read(4096).decode("utf-8", "replace")
    except OSError as error:
        return errno.errorcode[error.errno]


@app.task
def forks_without_end():
    children = 0
    try:
        while True:
            if os.fork() == 0:
                signal.pause()
            children += 1
    except OSError as error:
        return [children, errno.errorcode[error.errno]]
    finally:
        os.killpg(0, signal.SIGCONT)


@app.task
def starts_threads_without_end():
    release, started = threading.Event(), 0
    try:
        while True:
            threading.Thread(target=release.wait, daemon=True).start()
            started += 1
    except RuntimeError:
        return started
    finally:
        release.set()


@app.task
def leaves_zombies():
    left = 0
    try:
        while True:
            if os.fork() == 0:
                os._exit(0)
            left += 1
    except OSError:
        return left


@app.task
def fills(folder):
    """Until it is full: how many bytes that takes."""
    block, written = b"x" * (1 << 20), 0
    try:
        with open(f"{folder}/flood", "wb", buffering=0) as file:
            while True:
                written += file.write(block)
    except OSError as error:
        return [written, errno.errorcode[error.errno]]


@app.task
def opens_without_end():
    files = []
    try:
        while True:
            files.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        for file in files:
            os.close(file)
        return [len(files), errno.errorcode[error.errno]]


@app.task
def floods_for_ever():
    chunk = b"y" * (1 << 20) + b"\n"
    while True:
        os.write(1, chunk)


@app.task
def spins(processes, seconds):
    """Processor seconds that it gets."""
    end = time.monotonic() + seconds
    for _ in range(processes):
        if os.fork() == 0:
            while time.monotonic() < end:
                pass
            os._exit(0)
    for _ in range(processes):
        os.wait()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@app.task
def spins_for_ever():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    while True:
        pass


@app.task
def leaves_a_daemon(marker):
    """Forks twice, and holds the output open."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execvp("python3", ["python3", "-c", "import time; time.sleep(600)", marker])
        os._exit(0)
    return "gone"


@app.task
def opens_sockets():
    return {
        "raw": refused(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        "packet": refused(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3)),
        "vsock": refused(lambda: socket.socket(40, socket.SOCK_STREAM).connect((2, 1))),
    }


@app.task
def connects(addresses):
    def connect(host, port):
        with socket.create_connection((host, port), timeout=2):
            pass

    return [refused(connect, host, port) for host, port in addresses]


@app.task
def interfaces():
    return [name for _, name in socket.if_nameindex()]


@app.task
def engine_sockets():
    places = ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock")
    return [path for path in places if os.path.exists(path)]


@app.task
def environments():
    """Of every process that it can see."""
    found = []
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            try:
                with open(f"/proc/{pid}/environ", "rb") as file:
                    found.append(file.read().decode("utf-8", "replace"))
            except OSError:
                continue
    return found


@app.task
def kills_everybody():
    for pid in itertools.chain(range(2, 1 << 15), (-1,)):
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            continue
    return "killed"


@app.task
def becomes_root():
    with open("/proc/self/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    return {
        "setuid": refused(os.setuid, 0),
        "setgroups": refused(os.setgroups, [0]),
        "capabilities": [status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
        "no_new_privs": status["NoNewPrivs"],
        "seccomp": status["Seccomp"],
    }


@app.task
def makes_devices():
    return {
        "made": [refused(os.mknod, f"/tmp/{minor}", 0o600 | 0o020000, os.makedev(1, minor)) for minor in (1, 2, 11)],
        "there": [
            path for path in ("/dev/mem", "/dev/kmsg", "/dev/sda", "/dev/kvm", "/dev/fuse") if os.path.exists(path)
        ],
    }


@app.task
def raises_its_limits():
    def limit(kind):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (hard + 1 if hard >= 0 else hard, hard + 1 if hard >= 0 else hard))

    return {
        "files": refused_value(limit, resource.RLIMIT_NOFILE),
        "core": refused_value(limit, resource.RLIMIT_CORE),
        "nice": refused(os.nice, -5),
    }


def refused_value(call, *args):
    try:
        call(*args)
    except (OSError, ValueError):
        return "refused"
    return "allowed"


@app.task
def links_out(target):
    """A link where it may write, to a place of the host; what it reads through it."""
    os.symlink(target, "/tmp/link")
    try:
        with open("/tmp/link") as file:
            return file.read()
    except OSError as error:
        return errno.errorcode[error.errno]


@app.task
def unpacks(name):
    """What a bundle of code would do that has such an entry."""
    import io
    import zipfile

    from _cellwork_runner import archive

    with io.BytesIO() as bundle:
        with zipfile.ZipFile(bundle, "w") as file:
            file.writestr(name, "import os; os.abort()")
        try:
            archive.unpack(bundle.getvalue())
        except RuntimeError as error:
            return [str(error), os.path.exists(os.path.join("/tmp", os.path.basename(name)))]
    return ["unpacked", True]


@app.task
def leaves_behind(marker):
    """Listeners, a file and an abstract socket, for the next one to find."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 7777))
    listener.listen()
    hidden = socket.socket(socket.AF_UNIX)
    hidden.bind(f"\0{marker}")
    hidden.listen()
    with open(f"/tmp/{marker}", "w") as file:
        file.write(marker)
    if os.fork() == 0:
        signal.pause()
    return "left"


@app.task
def finds(marker):
    def hidden():
        with socket.socket(socket.AF_UNIX) as found:
            found.connect(f"\0{marker}")

    def listener():
        socket.create_connection(("127.0.0.1", 7777), timeout=2).close()

    return [refused(hidden), refused(listener), os.path.exists(f"/tmp/{marker}")]


@app.task
def writes_frames(frames):
    """With the runner's own nonce, so that the worker takes them for the runner's."""
    for frame in frames:
        os.write(1, b"\n" + nonce() + b" " + frame.encode("utf-8", "surrogateescape") + b"\n")
    return "honest"


@app.task
def writes_frames_and_ends(frames, cut=False):
    for frame in frames:
        line = b"\n" + nonce() + b" " + frame.encode("utf-8", "surrogateescape")
        os.write(1, line if cut else line + b"\n")
    os._exit(0)


@app.task
def returns(value):
    return value


@app.task
def returns_itself():
    value = []
    value.append(value)
    return value


@app.task
def returns_a_huge_number():
    return 10**6000


@app.task
def returns_surrogates():
    return "\udcff\x00\x1b[2J"


class Liar(str):
    """Says something else at every look."""

    def __str__(self):
        raise RuntimeError("no")

    def __len__(self):
        return -1


@app.task
def returns_a_liar():
    return Liar("x")


def misbehaving(kind):
    if kind == "class":
        meta = type("Meta", (type,), {"__name__": property(lambda cls: 1 / 0)})
        return meta("Broken", (Exception,), {})("x")
    if kind == "args":
        error = ValueError()
        error.args = (error, [error], object(), b"\xff" * 1000)
        return error
    if kind == "repr":
        return type("Silent", (Exception,), {"__repr__": lambda self: 1, "__str__": lambda self: None})("x")
    if kind == "long":
        return ValueError("m" * (100 << 20))
    if kind == "chain":
        error = ValueError("end")
        for number in range(5000):
            error, cause = ValueError(number), error
            error.__cause__ = cause
        return error
    if kind == "loop":
        error = ValueError("loop")
        error.__cause__ = error
        return error
    if kind == "reduce":
        return type("Loaded", (Exception,), {"__reduce__": lambda self: (os.system, ("touch /tmp/pwned",))})("x")
    raise AssertionError(kind)


@app.task(memory="512m")
def raises(kind):
    raise misbehaving(kind)


@app.task
def exits_with_an_object():
    raise SystemExit(misbehaving("repr"))


@app.task
def environment():
    return dict(os.environ)


@app.task
def replaces_the_runner():
    """Another program, in the place of the runner."""
    os.execvp("python3", ["python3", "-c", "print('I am the runner now')"])


@app.task
def closes_everything():
    os.closerange(0, 4096)
    return "nobody hears this"


@app.task
def stops_itself():
    os.kill(os.getpid(), signal.SIGSTOP)
    os.kill(1, signal.SIGSTOP)
    signal.pause()


@app.task
def changes_the_clock():
    def set_clock():
        time.clock_settime(time.CLOCK_REALTIME, 0)

    return refused(set_clock)


@app.task
def sends_a_descriptor():
    """Asks the kernel for the files of another process."""

    def steal(pid):
        return os.open(f"/proc/{pid}/root/etc/shadow", os.O_RDONLY)

    return [refused(steal, 1), refused(lambda: os.chroot("/tmp")), struct.calcsize("P")]


@app.task
def prints(text):
    print(text, flush=True)
