"""What a command uses: in its sandbox there is no runner, but a shell can read the kernel's figures after it.

That shell is the command's own, where its program is one. Where all of the command is known and its program is another,
it is the image's, which not every image has.
"""

from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

from cellwork_worker.launch import Launch

#: The one that every image has that has any.
IMAGES = "/bin/sh"

_SHELLS = frozenset(
    f"{folder}{name}" for folder in ("", "/bin/", "/usr/bin/") for name in ("sh", "ash", "dash", "bash")
)

#: They start an image's services, and refuse to be anything but process 1.
_INITS = frozenset({"/init", "/sbin/init", "/usr/sbin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd"})

#: Signals that it can pass on. What a shell does not wait for ignores SIGINT and SIGQUIT.
_PASSED = frozenset({None, "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGWINCH"})

#: Shells put these into the environment of what they run.
_SHELLS_OWN = ("PWD", "OLDPWD", "SHLVL")

#: Where a pod's container tells its last words. Where that cannot be written, nothing is told.
_MESSAGE = "2>/dev/null >/dev/termination-log"

#: A container's last words are the end of its standard error.
_OUTPUT = ">&2 2>/dev/null"

#: Runs its arguments, and then tells what was used, or that they could not be run. Builtins only: the image need not
#: have any other program. Both versions of control groups; the figures that matter most come last, for a termination
#: message that is too long loses its beginning (kubelet: 4 KiB are read from the end).
#:
#: The first process of a container is not ended by a signal that it does not ask for, so it passes on those that it may
#: get; as SIGTERM, where a shell has what it does not wait for ignore them. `exec`, for some programs are also within a
#: shell (echo, kill, test), and are not quite the image's. Both ways to see that a program cannot be run: bash runs no
#: trap then, if the file is there.
_SCRIPT = """\
never_ran() {{ echo "{mark}never_ran"; }} {there}
(trap - INT QUIT; trap never_ran EXIT; command -v "$1" >/dev/null || never_ran; {unset}; exec "$@") & child=$!
trap 'kill -TERM $child' TERM INT QUIT
for name in HUP USR1 USR2 ALRM WINCH; do trap "kill -$name $child" $name; done
wait $child; status=$?
while kill -0 $child; do wait $child; status=$?; done 2>/dev/null
said=; {{ read -r said </dev/termination-log; }} 2>/dev/null
if [ "$said" = never_ran ]; then exit $status; fi
tell() {{
    echo "{mark}ended"
    cd /sys/fs/cgroup || return
    for file in io.stat blkio/blkio.throttle.io_service_bytes /proc/self/io /proc/net/dev; do
        if [ -r $file ]; then while read -r line; do echo "$line"; done <$file; fi
    done
    for file in memory.peak memory/memory.max_usage_in_bytes cpuacct/cpuacct.usage; do
        if [ -r $file ]; then read -r value <$file; echo "${{file##*/}} $value"; fi
    done
    for file in cpu.stat memory.stat memory/memory.stat; do
        if [ -r $file ]; then
            while read -r name value; do
                case $name in
                    usage_usec|inactive_file|active_file|total_inactive_file|total_active_file) echo "$name $value";;
                esac
            done <$file
        fi
    done
}}
tell {there}
exit $status
"""

_NEVER_RAN, _ENDED = "never_ran", "ended"

#: Of a number in what was told, which is the task's word. The kernel's have fewer.
_DIGITS = 18

#: Numbers of an interface in /proc/net/dev.
_NET_FIELDS = 16

#: What the bytes of block devices are called, by either version.
_DISK = {
    "Read": "disk_read_bytes",
    "Write": "disk_written_bytes",
    "rbytes": "disk_read_bytes",
    "wbytes": "disk_written_bytes",
}

#: The same of the shell and what it has waited for, where the kernel does not count by group.
_OWN = {"read_bytes:": "disk_read_bytes", "write_bytes:": "disk_written_bytes"}

#: Images that are remembered to have no shell.
_MAX_WITHOUT = 1000


class Program(NamedTuple):
    """What an image runs where nobody says anything else."""

    entrypoint: tuple[str, ...] = ()
    #: What the entrypoint gets.
    arguments: tuple[str, ...] = ()
    #: That image by its digest, where its name may come to mean another one until it is run. Empty: it may not.
    image: str = ""


class Without:
    """Images that were seen to have no shell, by name; safe to use from many threads."""

    def __init__(self) -> None:
        #: The one that was met first at the front.
        self._images: dict[str | None, None] = {}

    def __contains__(self, image: str | None) -> bool:
        return image in self._images

    def add(self, image: str | None) -> None:
        """It has none."""
        self._images[image] = None
        if len(self._images) > _MAX_WITHOUT:
            self._images.pop(next(iter(self._images)), None)


def fitting(launch: Launch, images: Program | None = None) -> str | None:
    """The shell that can run a command. None: no shell can, or may.

    Args:
        launch: what to run.
        images: what its image does. None: it is not known.
    """
    spec = launch.spec
    known, program = _program(launch, images)
    alone = spec.init is False or spec.pids == 1 or spec.stop_signal not in _PASSED
    if not program or alone or program[0] in _INITS:
        return None
    if program[0] in _SHELLS:
        return program[0]
    return IMAGES if known else None


def _program(launch: Launch, images: Program | None) -> tuple[bool, list[str]]:
    """Whether all of it is known, and what is, or what its image's entrypoint gets."""
    said = launch.spec.entrypoint
    own = images or Program()
    given = launch.argv or (() if said else own.arguments)
    return (said is not None or images is not None), [*(own.entrypoint if said is None else said), *given]


def measured(launch: Launch, images: Program | None = None, *, borrow: bool = True, mark: str = "") -> list[str] | None:
    """A command with the shell around it that tells what it used. None: it has none, or is not a command.

    Args:
        launch: what to run.
        images: what its image does. None: it is not known.
        borrow: that image may have a shell.
        mark: what is told follows this, at the end of standard error. Empty: it is the termination message.
    """
    if launch.payload is not None:
        return None
    shell = fitting(launch, images)
    if shell is None or (shell == IMAGES and not borrow):
        return None
    return under(shell, _program(launch, images)[1], launch.env, mark)


def under(shell: str, program: Sequence[str], env: Container[str] = (), mark: str = "") -> list[str]:
    """`program`, with `shell` around it.

    Args:
        shell: see `fitting`.
        program: and its arguments.
        env: names of its environment.
        mark: see `measured`.
    """
    unset = " ".join(["unset -v", *(name for name in _SHELLS_OWN if name not in env)])
    script = _SCRIPT.format(mark=mark, there=_OUTPUT if mark else _MESSAGE, unset=unset)
    return [shell, "-c", script, shell, *program]


def never_ran(told: str) -> bool:
    """Of a command whose program could not be started."""
    return told.startswith(_NEVER_RAN)


def ended(told: str) -> bool:
    """Of a command after which its shell went on: whatever its status, nothing has ended the sandbox."""
    return told.startswith(_ENDED)


def missing(launch: Launch, where: str) -> str:
    """What to say of such a one. `where`: what it was to run in."""
    spec = launch.spec
    program = next(iter((*(spec.entrypoint or ()), *launch.argv)), "its image's")
    return (
        f"task {launch.task}: {where} (image {spec.image}) cannot start its program: {program!r} is not there, or not "
        f"executable"
    )


def figures(told: str) -> dict[str, float]:
    """What a command used, under the names of the runner's frame `usage`. Empty: nothing was told."""
    lines = [line.split() for line in told.splitlines()]
    said = _numbers(lines)
    found: dict[str, float] = {**_network(lines), **_disk(lines)}
    for field, name in _OWN.items():
        if field in said:
            found[name] = max(found.get(name, 0), said[field])
    if (nanoseconds := said.get("cpuacct.usage")) is not None:
        found["cpu_seconds"] = nanoseconds / 1e9
    elif (microseconds := said.get("usage_usec")) is not None:
        found["cpu_seconds"] = microseconds / 1e6
    peak = said.get("memory.peak", said.get("memory.max_usage_in_bytes"))
    if peak is not None:
        # The first version's own figures have that prefix: those without it leave out what is below.
        cache = [said.get(f"total_{name}", said.get(name, 0)) for name in ("inactive_file", "active_file")]
        found["peak_memory_bytes"] = max(0, peak - sum(cache))
    return found


def _numbers(lines: Sequence[Sequence[str]]) -> Mapping[str, int]:
    return {line[0]: number for line in lines if len(line) == 2 and (number := _number(line[1])) is not None}


def _network(lines: Sequence[Sequence[str]]) -> dict[str, int]:
    """Of all interfaces but the one to itself, from /proc/net/dev; nothing where that was not told."""
    found: dict[str, int] = {}
    for line in lines:
        name, _, rest = " ".join(line).partition(":")
        if len(fields := rest.split()) == _NET_FIELDS:
            here = name == "lo"
            _add(found, "network_received_bytes", "0" if here else fields[0])
            _add(found, "network_sent_bytes", "0" if here else fields[8])
    return found


def _disk(lines: Sequence[Sequence[str]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in lines:
        pairs = [line[1:]] if len(line) == 3 else [field.split("=") for field in line[1:]]
        for pair in pairs:
            if len(pair) == 2 and pair[0] in _DISK:
                _add(found, _DISK[pair[0]], pair[1])
    return found


def _add(found: dict[str, int], name: str, text: str) -> None:
    found[name] = found.get(name, 0) + (_number(text) or 0)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else None
