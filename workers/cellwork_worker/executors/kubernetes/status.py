"""A pod as the API shows it → whether it runs, what keeps it from running, how it ended. Pure."""

from cellwork.errors import CellworkError, ImageUnavailable, InvalidSpec, StartTimeout
from cellwork_worker.executors import shell
from cellwork_worker.executors.base import Exit
from cellwork_worker.launch import Launch

from .objects import ContainerStatus, Pod, Terminated

#: The container that the task runs in.
CONTAINER = "task"

#: Will not become better by waiting. The kubelet tries a pull anew for ever, and says ErrImagePull at its first
#: failure, which may be a registry's bad moment; ImagePullBackOff after that.
_NO_IMAGE = frozenset({"ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_NO_CONTAINER = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})

#: Ended without having run: the program is missing, or may not be executed.
_NEVER_RAN = frozenset({"StartError", "ContainerCannotRun"})

_KILLED = 128 + 9

#: The kubelet's word for the end of a pod that has had its `activeDeadlineSeconds`.
_LATE = "DeadlineExceeded"


def started(pod: Pod) -> bool:
    """Its container runs, or has run."""
    state = task_container(pod).state
    return state.running is not None or state.terminated is not None or pod.status.phase in ("Succeeded", "Failed")


def ended(pod: Pod) -> bool:
    """Its container does not run any more, and will not again."""
    return pod.status.phase in ("Succeeded", "Failed") or task_container(pod).state.terminated is not None


def task_container(pod: Pod) -> ContainerStatus:
    """What is known of the task's container; may be nothing yet."""
    return next((one for one in pod.status.container_statuses if one.name == CONTAINER), ContainerStatus())


def hindrance(launch: Launch, pod: Pod) -> CellworkError | None:
    """What keeps it from ever running, if something does."""
    waiting = task_container(pod).state.waiting
    if waiting is None:
        return None
    where = f"task {launch.task}: pod {launch.id} (image {launch.spec.image})"
    if waiting.reason in _NO_IMAGE:
        return ImageUnavailable(
            f"{where} cannot start, because the image cannot be pulled: {_said(waiting.reason, waiting.message)}. "
            f"Check its name, give the namespace the registry's login (image_pull_secrets=…), or load it on the nodes "
            f'and say pull="never"'
        )
    if waiting.reason in _NO_CONTAINER:
        return InvalidSpec(f"{where} cannot start: {_said(waiting.reason, waiting.message)}")
    return None


def lacks_shell(launch: Launch, pod: Pod) -> bool:
    """It never ran, and a shell that was borrowed from its image may be why."""
    terminated = task_container(pod).state.terminated
    return (
        terminated is not None
        and terminated.reason in _NEVER_RAN
        and launch.payload is None
        and (shell.fitting(launch) == shell.IMAGES or shell.IMAGES in terminated.message)
    )


def late(launch: Launch, pod: Pod) -> StartTimeout:
    """It was not running in time, and why."""
    unplaced = [c for c in pod.status.conditions if c.type == "PodScheduled" and c.status == "False"]
    waiting = task_container(pod).state.waiting
    if unplaced:
        why = f"{unplaced[0].reason or 'Unschedulable'}: {unplaced[0].message}"
    elif waiting is not None and waiting.reason:
        why = f"on node {pod.spec.node_name}: {_said(waiting.reason, waiting.message)}"
    else:
        why = (
            f"it is on node {pod.spec.node_name} and has not started" if pod.spec.node_name else "nobody has placed it"
        )
    seconds = launch.spec.start_timeout
    return StartTimeout(
        f"task {launch.task}: pod {launch.id} was not running within start_timeout={seconds:g} s: {why}"
    )


def exit_of(launch: Launch, pod: Pod) -> Exit:
    """How a pod ended that has ended.

    Raises:
        InvalidSpec: its program could not be started.
    """
    terminated = task_container(pod).state.terminated or Terminated(exit_code=_KILLED)
    if launch.payload is None and shell.never_ran(terminated.message):
        raise InvalidSpec(shell.missing(launch, f"pod {launch.id}"))
    if terminated.reason in _NEVER_RAN:
        raise InvalidSpec(
            f"task {launch.task}: pod {launch.id} (image {launch.spec.image}) cannot start its program: "
            f"{terminated.message or terminated.reason}"
        )
    # The kubelet says OOMKilled also where a child was killed and the container went on to end with another status.
    oom = terminated.reason == "OOMKilled"
    late = not oom and pod.status.reason == _LATE
    outside = disruption(pod)
    itself = launch.payload is None and shell.ended(terminated.message)
    return Exit(
        code=terminated.exit_code,
        oom=oom,
        killed=not oom and not late and (bool(outside) or (terminated.exit_code == _KILLED and not itself)),
        late=late,
        detail=outside or (terminated.reason if terminated.reason not in ("Completed", "Error") else ""),
    )


def disruption(pod: Pod) -> str:
    """Why the cluster itself ended it (evicted, preempted, its node gone …); empty: it did not."""
    if pod.status.reason and pod.status.phase == "Failed":
        return _said(pod.status.reason, pod.status.message)
    for condition in pod.status.conditions:
        if condition.type == "DisruptionTarget" and condition.status == "True":
            return _said(condition.reason, condition.message)
    return ""


def _said(reason: str, message: str) -> str:
    return f"{reason}: {message}" if message else reason
