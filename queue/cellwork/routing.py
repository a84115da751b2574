"""Which executor and which queue a task goes to, and why. Pure."""

import msgspec

from .spec import ContainerSpec

#: The queue whose tasks become pods, as Airflow's CeleryKubernetesExecutor has it.
KUBERNETES_QUEUE = "kubernetes"


class Route(msgspec.Struct, frozen=True):
    """A decision. `queue`: None leaves it to Celery's own routes and default queue."""

    executor: str
    queue: str | None
    reason: str


def route(name: str, declared: ContainerSpec, called: ContainerSpec, queue: str | None) -> Route:
    """Decide.

    Args:
        name: the task's.
        declared: what the task says of itself.
        called: what this call says.
        queue: the explicit one of call or task.
    """
    if name.startswith("celery."):
        return Route("inline", None, "Celery's own task")
    for spec, where in ((called, "in the call"), (declared, "on the task")):
        if spec.executor is not None:
            wanted = KUBERNETES_QUEUE if spec.executor == "kubernetes" and queue is None else None
            return Route(spec.executor, wanted, f"executor={spec.executor!r} {where}")
    if queue == KUBERNETES_QUEUE:
        return Route("kubernetes", None, f"queue={queue!r}")
    return Route("docker", None, "default")
