"""No sandbox at all: the worker's own thread, for trusted glue code."""

from collections.abc import Set

from cellwork.errors import InvalidSpec
from cellwork_worker.executors.base import STARTED, Emit, Exit, Health, Sandbox
from cellwork_worker.launch import Launch


class InlineExecutor:
    """Calls the body where it stands, with all that the worker can see and do."""

    def run(self, launch: Launch, emit: Emit) -> Exit:
        """Call the body. What it raises passes through, what it prints goes where the worker's output goes.

        Raises:
            InvalidSpec: the launch has no body.
        """
        if launch.body is None:
            raise InvalidSpec(f"task {launch.task}: the inline executor runs Python functions only, not commands")
        emit(STARTED, b"")
        return Exit(code=0, value=launch.body())

    def stop(self, launch_id: str, signal: int) -> None:
        """Do nothing: nothing can end a thread. The body runs on to its end."""

    def abandon(self, launch_id: str) -> None:
        """Do nothing: nothing can end a thread."""

    def discard(self, launch_id: str) -> None:
        """Do nothing: a thread leaves nothing."""

    def tail(self, launch_id: str, size: int) -> bytes | None:
        """Return nothing: its output is not kept."""
        return None

    def sandboxes(self) -> list[Sandbox]:
        """Return nothing: nothing outlives the worker."""
        return []

    def place(self) -> str:
        """See the port."""
        return "inline"

    def sweep(self, live: Set[str]) -> list[str]:
        """Return nothing: a thread leaves nothing to sweep."""
        return []

    def facts(self) -> dict[str, object]:
        """See the port."""
        return {}

    def check(self) -> Health:
        """See the port."""
        return Health(executor="inline", ok=True, detail="the worker's own thread, isolates nothing")
