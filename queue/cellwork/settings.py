"""The settings of an installation: what they mean, where they come from, and their check."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from . import spec as specs
from .errors import InvalidSetting
from .spec import ContainerSpec

if TYPE_CHECKING:
    from celery import Celery


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Later sources win: these defaults, cellwork.toml, ``configure(app, …)``, the environment (CELLWORK_<NAME>)."""

    #: What runs a task that is routed to ``docker`` on this worker. ``process`` isolates nothing.
    executor: Literal["docker", "process"] = "docker"
    #: How often a failure of the infrastructure is tried again; the task's own retries are not touched.
    infra_retries: int = 3
    #: Seconds before the first of these tries; doubled for each further one.
    infra_backoff: float = 1.0
    #: Bytes of JSON that a task may return.
    result_max_bytes: int = 8 << 20
    #: Bytes of arguments and code that go into a sandbox.
    payload_max_bytes: int = 64 << 20
    #: Bytes of a sandbox's output that the engine keeps.
    log_max_bytes: int = 10 << 20
    #: Bytes of a task's output that are kept in Redis for ``cellwork logs``; the newest stay.
    log_stream_bytes: int = 4 << 20
    #: Entries of it, of one or more lines each; the newest stay.
    log_stream_entries: int = 10_000
    #: Seconds that it is kept after the task's last line.
    log_stream_ttl: int = 24 * 3600
    #: Bytes of output that an error quotes.
    log_tail_bytes: int = 4096
    #: Seconds between a signal that asks a sandbox to end and the one that kills it.
    kill_grace: float = 10.0
    #: What every task gets that does not say otherwise; same options as on a task.
    defaults: ContainerSpec = ContainerSpec()
    #: Folder of the secrets that tasks name, one file each; then CELLWORK_SECRET_<NAME> in the worker's environment.
    secrets_dir: str | None = None
    #: The worker's policy (cellwork_worker.policy.Policy).
    policy: dict[str, Any] = {}
    #: Keeps installations that share an engine or a Redis apart.
    installation: str = "default"


_SCALARS = {"executor": str, "installation": str, "secrets_dir": str, "infra_backoff": float, "kill_grace": float}


def load(app: "Celery") -> Settings:
    """The settings of `app` in this process.

    Raises:
        InvalidSetting: names setting, source, value and what is accepted.
        InvalidSpec: of `defaults`.
    """
    values: dict[str, Any] = {}
    for source, found in (_file(), ("configure()", app.conf.get("cellwork") or {}), _environment()):
        for name, value in found.items():
            values[name] = _checked(source, name, value)
    return Settings(**values)


def check(given: Mapping[str, Any]) -> None:
    """Check what a caller of ``configure`` gave.

    Raises:
        InvalidSetting, InvalidSpec.
    """
    for name, value in given.items():
        _checked("configure()", name, value)


def _file() -> tuple[str, Mapping[str, Any]]:
    path = Path(os.environ.get("CELLWORK_CONFIG", "cellwork.toml"))
    if not path.exists():
        if "CELLWORK_CONFIG" in os.environ:
            raise InvalidSetting(f"CELLWORK_CONFIG={path}: there is no such file")
        return str(path), {}
    try:
        table = tomllib.loads(path.read_text()).get("cellwork", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"{path}: not TOML: {error}") from None
    return str(path), table


def _environment() -> tuple[str, Mapping[str, Any]]:
    found: dict[str, Any] = {}
    for name in Settings.__struct_fields__:
        text = os.environ.get(f"CELLWORK_{name.upper()}")
        if text is not None and name not in ("defaults", "policy"):
            try:
                found[name] = _SCALARS.get(name, int)(text)
            except ValueError:
                raise InvalidSetting(f"CELLWORK_{name.upper()}={text!r}: a number is expected") from None
    return "environment", found


def _checked(source: str, name: str, value: Any) -> Any:
    if name not in Settings.__struct_fields__:
        known = ", ".join(Settings.__struct_fields__)
        raise InvalidSetting(f"{source}: unknown setting {name}={value!r}; settings are {known}")
    if name == "defaults" and not isinstance(value, ContainerSpec):
        if not isinstance(value, Mapping):
            raise InvalidSetting(f"{source}: defaults={value!r}; a mapping of task options is expected")
        return specs.parse("(defaults)", value)
    try:
        setting = msgspec.convert({name: value}, Settings) if name != "defaults" else None
    except msgspec.ValidationError as error:
        raise InvalidSetting(f"{source}: {name}={value!r} is not accepted: {error}") from None
    return value if setting is None else getattr(setting, name)
