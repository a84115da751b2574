"""Shares of a queue: whose turn it is, and how many may run at once. Pure; the transport keeps the lists.

A message that has a share waits in a list of its group: those of one `fair_key`, or of one task with `max_running`,
or of both. In the queue itself stands a placeholder for each, so the queue is as long as ever for whoever counts it.
Whoever takes a placeholder takes the next message of the group whose turn it is.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from kombu.utils.json import dumps

from .spec import ContainerSpec

#: How a placeholder begins, and no message does.
MARKER = '{"cellwork-fair"'

#: Waiting names: of the ring of groups that have messages, and of a group's list (docs/design.md).
RING, GROUP, RUNNING = ".cellwork-ring", ".cellwork-group:", "cellwork-running:"


class Share(msgspec.Struct, frozen=True):
    """What a message says about its share, in its header."""

    group: str
    #: Name, and how many messages of that name may be taken and unacknowledged at once, over all workers.
    caps: tuple[tuple[str, int], ...] = ()


def share(task: str, spec: ContainerSpec, installation: str, key_max_running: int | None) -> Share | None:
    """Of a task that is sent; None: it waits in line like any other.

    Args:
        task: its name.
        spec: what is asked for, with the installation's defaults.
        installation: whose caps they are.
        key_max_running: the setting.
    """
    if spec.fair_key is None and spec.max_running is None:
        return None
    caps = []
    if spec.fair_key is not None and key_max_running is not None:
        caps.append((f"{installation}:key:{spec.fair_key}", key_max_running))
    if spec.max_running is not None:
        caps.append((f"{installation}:task:{task}", spec.max_running))
    # All of a group are held up by the same caps, so that none of them waits behind one that may not run yet.
    return Share(dumps([spec.fair_key, task if spec.max_running is not None else None]), tuple(caps))


def of(message: Mapping[str, Any]) -> Share | None:
    """Of a message as kombu has it; None: none, or of somebody else's making."""
    try:
        found = msgspec.convert(message["headers"]["cellwork"]["share"], Share)
    except (LookupError, TypeError, msgspec.ValidationError):
        return None
    # What Lua's decoder refuses would stop the queue.
    return found if all(name.isprintable() for name in (found.group, *(name for name, _ in found.caps))) else None


def entry(found: Share, message: Mapping[str, Any]) -> str:
    """As it stands in its group's list: what must be known before it is taken, then the message."""
    return f"{dumps(found.caps)}\n{dumps(message)}"


def placeholder(message: Mapping[str, Any]) -> str:
    """As it stands in the queue: it also says when it came, for those who ask how long messages wait."""
    return f'{MARKER}: 1, "headers": {{"cellwork": {{"sent": {dumps(message["headers"]["cellwork"].get("sent"))}}}}}}}'
