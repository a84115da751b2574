"""Where a worker finds the secrets that tasks name: a folder of files, or its own environment."""

import os
from pathlib import Path

from cellwork.errors import InvalidSpec
from cellwork.spec import ContainerSpec

#: A shorter one could not be told from ordinary output.
_LEAST_CHARS = 4


class SecretSource:
    """Looked at for each task, so that a secret that was replaced counts from the next task on."""

    def __init__(self, folder: str | None) -> None:
        """`folder`: setting ``secrets_dir``: one file a secret, as Docker and Kubernetes mount them."""
        self._folder = None if folder is None else Path(folder)

    def __call__(self, task: str, spec: ContainerSpec) -> dict[str, str]:
        """The environment variables of the task's body that are secret.

        Raises:
            InvalidSpec: this worker has no such secret, or one that is too short. Never says a value.
        """
        return {variable: self.value(f"task {task}", name) for variable, name in (spec.secrets or {}).items()}

    def value(self, who: str, name: str) -> str:
        """One of them. `who` wants it, for the message.

        Raises:
            InvalidSpec: as above.
        """
        value = self._read(who, name)
        if value is None:
            where = f"no file {self._folder / name}, and " if self._folder else ""
            raise InvalidSpec(
                f"{who}: there is no secret {name} here: {where}no CELLWORK_SECRET_{name} in the environment"
            )
        if len(value) < _LEAST_CHARS:
            raise InvalidSpec(
                f"{who}: secret {name} has fewer than {_LEAST_CHARS} characters, and could not be told from "
                f"ordinary output"
            )
        return value

    def _read(self, who: str, name: str) -> str | None:
        if self._folder is not None:
            try:
                return (self._folder / name).read_text().removesuffix("\n")
            except FileNotFoundError:
                pass  # the environment may have it
            except (OSError, UnicodeDecodeError) as error:
                raise InvalidSpec(f"{who}: secret {name} cannot be read: {type(error).__name__}") from None
        return os.environ.get(f"CELLWORK_SECRET_{name}")


def check_executor(task: str, spec: ContainerSpec, executor: str) -> None:
    """A cluster's secrets are there for its pods only.

    Raises:
        InvalidSpec: `spec` names some, and `executor` makes no pods.
    """
    if spec.secret_env and executor != "kubernetes":
        raise InvalidSpec(
            f"task {task}: secret_env={spec.secret_env!r} names Secrets of a cluster, which executor {executor} does "
            f"not have; use secrets=…, or send it to executor kubernetes"
        )


def refuse(task: str, spec: ContainerSpec, what: str) -> None:
    """Refuse secrets where they could not be handed over unseen.

    Raises:
        InvalidSpec: `spec` names some.
    """
    if spec.secrets:
        raise InvalidSpec(
            f"task {task}: secrets={sorted(spec.secrets.values())}: {what}; only Python tasks in a sandbox get secrets"
        )
