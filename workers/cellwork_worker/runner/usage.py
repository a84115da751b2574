"""What the sandbox used, for its bill: the kernel's figures of its control group, or else of its processes."""

import os
import resource

_CGROUPS = "/sys/fs/cgroup"

#: What the bytes of block devices are called: by either version of control groups, and of a process.
_V1 = {"Read": "disk_read_bytes", "Write": "disk_written_bytes"}
_V2 = {"rbytes": "disk_read_bytes", "wbytes": "disk_written_bytes"}
_OWN = {"read_bytes:": "disk_read_bytes", "write_bytes:": "disk_written_bytes"}


def measure(seconds, root=_CGROUPS, proc="/proc", own=None):
    """What is not known is left out.

    Args:
        seconds: that the task has taken.
        own: the control group below `root` is the sandbox's own, and so is its network. None: where this is process 1.
    """
    me, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    # Of processes that were waited for; and of memory, only the largest one's.
    cpu = me.ru_utime + me.ru_stime + children.ru_utime + children.ru_stime
    peak = max(me.ru_maxrss, children.ru_maxrss) * 1024
    io = _fields(proc + "/self/io")
    found = {"run_seconds": seconds, **{name: io[field] for field, name in _OWN.items() if field in io}}
    if os.getpid() == 1 if own is None else own:
        cpu = max(cpu, _cpu_seconds(root) or 0)
        peak = max(peak, _peak_bytes(root) or 0)
        kills = _oom_kills(root)
        if kills:
            found["oom_kills"] = kills
        for name, value in _disk(root).items():
            found[name] = max(found.get(name, 0), value)
        found.update(_network(proc + "/net/dev"))
    return dict(found, cpu_seconds=cpu, peak_memory_bytes=peak)


def _cpu_seconds(root):
    nanoseconds = _number(root + "/cpuacct/cpuacct.usage")
    if nanoseconds is not None:
        return nanoseconds / 1e9
    microseconds = _fields(root + "/cpu.stat").get("usage_usec")
    return None if microseconds is None else microseconds / 1e6


def _peak_bytes(root):
    """The largest use of all processes together.

    The kernel counts the cache of files, too, which it would give back before it kills; what is left of it goes off.
    """
    for peak, stat, prefix in (
        ("/memory/memory.max_usage_in_bytes", "/memory/memory.stat", "total_"),
        ("/memory.peak", "/memory.stat", ""),
    ):
        most = _number(root + peak)
        if most is not None:
            found = _fields(root + stat)
            return most - sum(found.get(prefix + name, 0) for name in ("inactive_file", "active_file"))
    return None


def _oom_kills(root):
    """How many of its processes the kernel killed for memory."""
    return _fields(root + "/memory/memory.oom_control").get("oom_kill") or _fields(root + "/memory.events").get(
        "oom_kill"
    )


def _disk(root):
    """Of block devices: not what the cache answered. Empty where the kernel does not count by group."""
    found = {}
    for line in _lines(root + "/blkio/blkio.throttle.io_service_bytes"):
        fields = line.split()
        if len(fields) == 3 and fields[1] in _V1:
            _add(found, _V1[fields[1]], fields[2])
    for line in _lines(root + "/io.stat"):
        for field in line.split()[1:]:
            name, _, value = field.partition("=")
            if name in _V2:
                _add(found, _V2[name], value)
    return found


def _add(found, name, value):
    found[name] = found.get(name, 0) + int(value)


def _network(devices):
    """Of all its interfaces but the one to itself."""
    received = sent = 0
    for line in _lines(devices)[2:]:
        name, _, figures = line.partition(":")
        if name.strip() != "lo":
            fields = figures.split()
            received, sent = received + int(fields[0]), sent + int(fields[8])
    return {"network_received_bytes": received, "network_sent_bytes": sent}


def _number(path):
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdigit() else None


def _fields(path):
    pairs = (line.split() for line in _lines(path))
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _lines(path):
    try:
        # Without the layers of a text file, which cost more than the reading.
        with open(path, "rb", 0) as file:
            return file.read().decode("ascii", "replace").splitlines()
    except OSError:
        return []  # another version of control groups, or a runtime that shows none
