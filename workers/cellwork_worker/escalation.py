"""More memory for a task whose sandbox the kernel killed for it. Pure."""

import msgspec

from cellwork.errors import OutOfMemory
from cellwork.quantity import format_bytes
from cellwork.spec import ContainerSpec


def larger(spec: ContainerSpec) -> ContainerSpec | None:
    """The same with twice the memory, `memory_max` at most; None: it has all that it may have.

    The swap beyond its memory stays as it is.
    """
    if spec.memory is None or spec.memory_max is None or spec.memory >= spec.memory_max:
        return None
    memory = min(2 * spec.memory, spec.memory_max)
    swap = None if spec.memory_swap is None else spec.memory_swap + memory - spec.memory
    return msgspec.structs.replace(spec, memory=memory, memory_swap=swap)


def exhausted(error: OutOfMemory, tried: list[int]) -> OutOfMemory:
    """The error of one that was tried with all these sizes (bytes), the last one included."""
    if len(tried) < 2:
        return error
    return OutOfMemory(f"{error}; it was tried with {', '.join(map(format_bytes, tried))}, which is memory_max")
