"""What a command uses that a shell runs: in its pod there is no runner, but a shell that can read the kernel's figures.

Only where the command's program is a shell: so there is one, and an image's own entrypoint gets another call of it.
"""

from collections.abc import Mapping, Sequence

_SHELLS = frozenset(
    f"{folder}{name}" for folder in ("", "/bin/", "/usr/bin/") for name in ("sh", "ash", "dash", "bash")
)

#: Runs its arguments, and then tells in the termination message what was used. The first process of a container is not
#: ended by a signal that it does not ask for, so it passes on the one that the kubelet ends a pod with. Builtins only:
#: the image need not have any other program. Both versions of control groups.
_SCRIPT = """\
"$@" & child=$!
trap 'kill -TERM $child' TERM
wait $child; status=$?
while kill -0 $child; do wait $child; status=$?; done 2>/dev/null
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

#: Of a number in the termination message, which is the task's word. The kernel's have fewer.
_DIGITS = 18


def measured(command: Sequence[str]) -> list[str]:
    """The same command, that tells what it has used; as it was, where its program is no shell."""
    if not command or command[0] not in _SHELLS:
        return list(command)
    return [command[0], "-c", _SCRIPT, command[0], *command]


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
