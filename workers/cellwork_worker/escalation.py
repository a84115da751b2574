"""More memory for a task whose sandbox the kernel killed for it. Pure."""

import msgspec

from cellwork.errors import OutOfMemory
from cellwork.quantity import format_bytes
from cellwork.spec import ContainerSpec


def larger(spec: ContainerSpec) -> ContainerSpec | None:
    """The same with twice the memory, `memory_max` at most; None: it has all that it may have."""
    if spec.memory is None or spec.memory_max is None or spec.memory >= spec.memory_max:
        return None
    return _with(spec, min(2 * spec.memory, spec.memory_max))


def at_least(spec: ContainerSpec, memory: int | None) -> ContainerSpec:
    """The same with so many bytes, where it has less and may have more."""
    if memory is None or spec.memory is None or spec.memory_max is None or spec.memory >= min(memory, spec.memory_max):
        return spec
    return _with(spec, min(memory, spec.memory_max))


def at_most(spec: ContainerSpec, memory: int | None) -> ContainerSpec:
    """The same with no more than so many bytes. None: there is no bound."""
    return spec if memory is None or spec.memory is None or spec.memory <= memory else _with(spec, memory)


def _with(spec: ContainerSpec, memory: int) -> ContainerSpec:
    """The swap beyond its memory stays as it is."""
    swap = None if spec.memory_swap is None else spec.memory_swap + memory - (spec.memory or 0)
    return msgspec.structs.replace(spec, memory=memory, memory_swap=swap)


def exhausted(error: OutOfMemory, tried: list[int], most: str = "memory_max") -> OutOfMemory:
    """The error of one that was tried with all these sizes (bytes), the last one included; `most`: what that one is."""
    if len(tried) < 2:
        return error
    return OutOfMemory(f"{error}; it was tried with {', '.join(map(format_bytes, tried))}, which is {most}")
