"""How a container ended."""

from collections.abc import Mapping
from datetime import datetime
from signal import SIGKILL
from typing import Any

import docker

from cellwork_worker.executors.base import Exit

from .engine import Engine

#: 128 + SIGKILL. Nothing inside can send that to the sandbox's first process, so it came from outside.
_KILLED = 128 + SIGKILL

#: Seconds after an end in which the engine may say that the kernel had killed for memory; 30 ms were seen.
_LATE = 1.0


def exit_of(engine: Engine, container: str) -> Exit:
    """Wait for the container's end.

    Raises:
        NotFound: it is gone.
    """
    engine.ask(lambda: engine.client.wait(container, timeout=None))
    engine.ask(engine.knock)
    state = engine.ask(lambda: engine.client.inspect_container(container))["State"]
    code = state["ExitCode"]
    oom = state["OOMKilled"] or (
        code == _KILLED and not engine.podman and engine.ask(lambda: ran_out(engine.client, container, state))
    )
    return Exit(code=code, oom=oom, killed=code == _KILLED, detail=state.get("Error") or "")


def ran_out(client: docker.APIClient, container: str, state: Mapping[str, Any]) -> bool:
    """Whether the engine reports that this killed container was out of memory.

    `OOMKilled` alone does not tell: where the end is reported before its reason, as for 5 of 160 containers on
    engine 20.10, it stays false for ever, and only the event comes.

    Args:
        client, container: the engine's, and its id.
        state: as inspected, after the end.
    """
    # In the engine's own time, which may not be ours. The engine takes fractions of a second, the SDK's types do not.
    since: Any = f"{datetime.fromisoformat(state['StartedAt']).timestamp():.6f}"
    until: Any = f"{datetime.fromisoformat(state['FinishedAt']).timestamp() + _LATE:.6f}"
    filters = {"container": container, "event": ["oom", "kill"]}
    events = client.events(since=since, until=until, filters=filters, decode=True)
    try:
        for event in events:
            if event["Action"] == "oom":
                return True
            if event["Actor"]["Attributes"].get("signal") == str(SIGKILL.value):
                return False
        return False
    finally:
        events.close()
