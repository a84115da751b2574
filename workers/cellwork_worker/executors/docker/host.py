"""What an engine's host has left: free disk, and its clock. Pure, but for one look at the file system."""

import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from cellwork.quantity import format_bytes

#: Bytes below which the engine is as good as full: images are pulled and logs written there.
_LEAST = 512 << 20


def disk_of(info: Mapping[str, Any], address: str) -> tuple[str, str]:
    """What is free where the engine keeps images and containers, and what is wrong with that (empty: nothing).

    Args:
        info: the engine's own account of itself.
        address: a remote engine does not tell.
    """
    root = str(info.get("DockerRootDir") or "")
    try:
        if not address.startswith("unix:"):
            return "not told by a remote engine", ""
        usage = shutil.disk_usage(root)
    except OSError:
        return f"{root or 'its folder'} cannot be seen from here", ""
    told = f"{format_bytes(usage.free)} free of {format_bytes(usage.total)} ({root})"
    full = f"but its disk is full: {told}; docker image prune, cellwork images prune" if usage.free < _LEAST else ""
    return told, full


def clock_of(info: Mapping[str, Any]) -> str:
    """How the engine's clock differs from this machine's."""
    try:
        theirs = datetime.fromisoformat(str(info.get("SystemTime")))
    except ValueError:
        return "not told"
    return f"{(datetime.now(UTC) - theirs).total_seconds():+.1f} s from ours"
