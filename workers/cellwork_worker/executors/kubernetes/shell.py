"""What a command uses: in its pod there is no runner, but a shell can read the kernel's figures after it.

That shell is the command's own, where its program is one. Where all of the command is known and its program is another,
it is the image's, which not every image has. An entrypoint that only the image knows is called as ever.
"""

from collections.abc import Mapping, Sequence

#: The one that every image has that has any.
IMAGES = "/bin/sh"

_SHELLS = frozenset(
    f"{folder}{name}" for folder in ("", "/bin/", "/usr/bin/") for name in ("sh", "ash", "dash", "bash")
)

#: Runs its arguments, and then tells in the termination message what was used, or that they could not be run. Builtins
#: only: the image need not have any other program. Both versions of control groups.
#:
#: The first process of a container is not ended by a signal that it does not ask for, so it passes on the one that the
#: kubelet ends a pod with; as SIGTERM, for a shell has what it does not wait for ignore SIGINT. `exec`, for some
#: programs are also within a shell (echo, kill, test), and are not quite the image's. Both ways to see that a program
#: cannot be run: bash runs no trap then, if the file is there.
_SCRIPT = """\
never_ran() { echo never_ran >/dev/termination-log; } 2>/dev/null
(trap - INT QUIT; trap never_ran EXIT; command -v "$1" >/dev/null || never_ran; exec "$@") & child=$!
trap 'kill -TERM $child' TERM INT QUIT HUP
wait $child; status=$?
while kill -0 $child; do wait $child; status=$?; done 2>/dev/null
said=; { read -r said </dev/termination-log; } 2>/dev/null
if [ "$said" = never_ran ]; then exit $status; fi
cd /sys/fs/cgroup 2>/dev/null || exit $status
for file in memory.peak memory/memory.max_usage_in_bytes cpuacct/cpuacct.usage; do
    if [ -r $file ]; then read -r value <$file; echo "${file##*/} $value"; fi
done >/dev/termination-log 2>/dev/null
for file in cpu.stat memory.stat memory/memory.stat; do
    if [ -r $file ]; then
        while read -r name value; do
            case $name in
                usage_usec|inactive_file|active_file|total_inactive_file|total_active_file) echo "$name $value";;
            esac
        done <$file
    fi
done >>/dev/termination-log 2>/dev/null
exit $status
"""

_NEVER_RAN = "never_ran\n"

#: Of a number in the termination message, which is the task's word. The kernel's have fewer.
_DIGITS = 18


def fitting(entrypoint: Sequence[str] | None, arguments: Sequence[str]) -> str | None:
    """The shell that can run a command. None: no shell can, for nobody here knows what is run.

    Args:
        entrypoint: None: the image's own, which is not known.
        arguments: for it.
    """
    program = [*(entrypoint or ()), *arguments]
    if program and program[0] in _SHELLS:
        return program[0]
    return IMAGES if program and entrypoint is not None else None


def under(shell: str | None, program: Sequence[str]) -> list[str]:
    """`program`, with `shell` around it if there is one."""
    return [*program] if shell is None else [shell, "-c", _SCRIPT, shell, *program]


def never_ran(message: str) -> bool:
    """The termination message of a command whose program could not be started."""
    return message.startswith(_NEVER_RAN)


def figures(message: str) -> dict[str, float]:
    """What a termination message tells, under the names of the runner's frame `usage`. Empty: nothing."""
    said = _numbers(message)
    found: dict[str, float] = {}
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


def _numbers(message: str) -> Mapping[str, int]:
    pairs = (line.split(" ") for line in message.splitlines())
    return {
        pair[0]: int(pair[1])
        for pair in pairs
        if len(pair) == 2 and pair[1].isascii() and pair[1].isdigit() and len(pair[1]) <= _DIGITS
    }
