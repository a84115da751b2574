"""The port between the supervisor and whatever makes sandboxes."""

from collections.abc import Callable, Mapping, Set
from typing import Protocol, runtime_checkable

import msgspec

from cellwork.errors import CellworkError
from cellwork_worker.launch import Launch

#: What `Emit` is told: that the sandbox runs (with no bytes), or what it printed, by file descriptor.
STARTED, STDOUT, STDERR = 0, 1, 2

#: ``emit(stream, chunk)``: what the sandbox does, in order per stream, as it arrives. True says that the
#: outcome is complete: the executor returns at once and ends the sandbox in the background.
Emit = Callable[[int, bytes], bool]


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How a sandbox ended, as far as its executor knows."""

    #: Exit status; None when the sandbox was not waited for, because its outcome had already come.
    code: int | None = None
    #: The kernel killed a process of the sandbox for memory.
    oom: bool = False
    #: Ended by a signal from outside the sandbox.
    killed: bool = False
    #: Ended by its engine, at the deadline that it was given when it was made.
    late: bool = False
    #: What the engine says about the end, for the error message. May be empty.
    detail: str = ""
    #: The sandbox was already there: an earlier delivery of this task had started it.
    adopted: bool = False
    #: It ended while the engine was away, as far as can be told: what it printed last may be lost.
    unseen: bool = False
    #: It had been started ahead of need.
    warm: bool = False
    #: Seconds from the request to the running sandbox.
    start_seconds: float | None = None
    #: Of these, what it took to pull the image; None: it was there.
    pull_seconds: float | None = None
    #: What the engine says that it used, where its runner does not: names as in the runner's frame ``usage``.
    used: Mapping[str, float] = {}
    #: The engine's id of the image that it ran (``sha256:…``), where that is known. May be empty.
    image_id: str = ""
    #: Its size, with its base; None: not known.
    image_bytes: int | None = None
    #: The machine that it ran on, where that is not the worker's. May be empty.
    node: str = ""
    #: Only from the inline executor: what the body returned.
    value: object = None


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What ``cellwork doctor`` prints about an executor."""

    executor: str
    ok: bool
    #: One line: name and version when ok, else what is wrong and what to do.
    detail: str
    facts: dict[str, str] = {}


class Abandoned(CellworkError):
    """Raised by `Executor.run` after `abandon`: the sandbox is another worker's."""

    kind = "abandoned"


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """A sandbox as its engine lists it, whichever worker made it."""

    #: Its name.
    id: str
    #: Celery's node name of the worker that made it.
    worker: str
    #: Empty: it runs no task, it only serves sandboxes that do (a namespace holder).
    task_id: str
    #: Seconds since the epoch.
    created: float
    #: Which Redis knows whether that worker lives, so that nobody asks another. Empty: not known.
    broker: str = ""
    #: The process of that worker: one that was started again under the same name is another. Empty: not known.
    boot: str = ""
    #: The name under which it was started ahead of need; its engine does not know which task it was given.
    alias: str = ""
    #: The task's attempt, where the name does not say it.
    attempt: str = ""
    #: Another sandbox runs that needs this one.
    needed: bool = False


class Names(Protocol):
    """Names that an executor wants remembered, for all workers of its installation and for longer than they live."""

    def add(self, name: str) -> None:
        """Remember it. Never raises."""

    def all(self) -> Set[str]:
        """Those that are known. Never raises."""


class InMemory:
    """The same, for this process alone."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def add(self, name: str) -> None:
        """See `Names`."""
        self._names.add(name)

    def all(self) -> Set[str]:
        """See `Names`."""
        return frozenset(self._names)


class Executor(Protocol):
    """Makes and ends sandboxes. Its methods are called from several threads at once."""

    def run(self, launch: Launch, emit: Emit) -> Exit:
        """Run one sandbox to its end; blocks. Adopts a sandbox that already has this id.

        Removes it at its end, unless the launch says `keep` and it has started.

        Raises:
            Abandoned, cellwork.errors.EngineUnavailable, ImageUnavailable, StartTimeout, SandboxLost, InvalidSpec.
        """

    def stop(self, launch_id: str, signal: int) -> None:
        """Send a signal to a sandbox. Does nothing where there is none with this id."""

    def abandon(self, launch_id: str) -> None:
        """Stop following a sandbox and leave it running, for another worker: its `run` raises `Abandoned`.

        Where nobody could adopt it, it is ended. Does not block.
        """

    def discard(self, launch_id: str) -> None:
        """End and remove a sandbox, in the background. Does nothing where there is none with this id."""

    def tail(self, launch_id: str, size: int) -> bytes | None:
        """The last `size` bytes or so of what a sandbox printed, frames included; None: it is not known.

        Raises:
            cellwork.errors.EngineUnavailable
        """

    def sandboxes(self) -> list[Sandbox]:
        """Those of this installation, of whichever worker, in this place.

        Raises:
            cellwork.errors.EngineUnavailable
        """

    def place(self) -> str:
        """Where its sandboxes are: an executor of the same place can adopt them. Never raises."""

    def sweep(self, live: Set[str]) -> list[str]:
        """End this worker's sandboxes whose id is not in `live`; return their ids.

        Also waits for the ones that are being ended in the background.
        """

    def facts(self) -> dict[str, object]:
        """What a look at the worker's pool shows of it: plain values. Must not wait for anything."""

    def check(self) -> Health:
        """Say whether sandboxes can be made now. Never raises."""


class Capacity(msgspec.Struct, frozen=True):
    """Of the machine that sandboxes run on: bytes, processors."""

    memory: int
    cpus: float


@runtime_checkable
class Hosted(Executor, Protocol):
    """An executor whose sandboxes share one machine, so that its worker must see that they fit."""

    def capacity(self) -> Capacity:
        """Of that machine.

        Raises:
            cellwork.errors.EngineUnavailable
        """

    def spare(self, memory: int) -> None:
        """Tasks have not asked for so many bytes now: what was started ahead of need must fit in. Does not block."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a sandbox uses now."""

    #: Of one processor; 200 is two of them.
    cpu_percent: float
    #: Without the page cache that can go at any time.
    memory_bytes: int
    memory_limit_bytes: int | None = None


@runtime_checkable
class Metered(Protocol):
    """An executor that can tell what a sandbox uses."""

    def usage(self, launch_id: str) -> Usage | None:
        """Measure; takes up to a few seconds. None: there is no running sandbox with this id.

        Raises:
            cellwork.errors.EngineUnavailable.
        """
