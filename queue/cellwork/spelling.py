"""What a user may write for each option, and how that is read. Pure, apart from the file of a `pod_template`."""

import os
import re
import signal
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from .image import Image
from .quantity import BYTES_ACCEPTED, CPUS_ACCEPTED, parse_bytes, parse_cpus

_SECONDS = "a number of seconds greater than 0"
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: Names of objects, and keys of a Secret's data (API reference, "Secret v1 core").
_SECRET_KEY = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/[A-Za-z0-9._-]{1,253}")
_KUBERNETES_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_PLATFORM = re.compile(r"[a-z0-9]+(/[a-z0-9_]+){0,2}")
_ULIMITS = frozenset(
    {
        "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio",
        "rttime", "sigpending", "stack",
    }
)  # fmt: skip
_IMAGE = re.compile(r"[a-z0-9][\w./:@+-]*", re.ASCII)


def _positive(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**31:
        raise ValueError(_SECONDS)
    return float(value)


def _count(least: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
            raise ValueError(f"a whole number, {least} or more")
        return value

    return parse


def _image(value: object) -> str:
    if isinstance(value, Image):
        return value.tag
    if not isinstance(value, str) or not _IMAGE.fullmatch(value) or len(value) > 512:
        raise ValueError('an image name, such as "python:3.12-slim" or "registry.example/shop@sha256:…"')
    return value


def _env(value: object) -> dict[str, str]:
    accepted = "a mapping of names (letters, digits and _) to strings"
    if not isinstance(value, Mapping):
        raise ValueError(accepted)
    for name, text in value.items():
        if not isinstance(name, str) or not _ENV_NAME.fullmatch(name) or not isinstance(text, str) or "\0" in text:
            raise ValueError(accepted)
    return dict(value)


def _secrets(value: object) -> dict[str, str]:
    accepted = 'names of secrets, such as ("DB_PASSWORD",), or a mapping of environment variables to such names'
    if not isinstance(value, Mapping):
        if isinstance(value, str | bytes) or not isinstance(value, Iterable):
            raise ValueError(accepted)
        value = {name: name for name in value}
    for variable, name in value.items():
        if not all(isinstance(word, str) and _ENV_NAME.fullmatch(word) for word in (variable, name)):
            raise ValueError(accepted)
    return dict(value)


def _secret_env(value: object) -> dict[str, str]:
    accepted = 'a mapping of environment variables to SECRET/KEY, such as {"PGPASSWORD": "database/password"}'
    if not isinstance(value, Mapping):
        raise ValueError(accepted)
    for variable, source in value.items():
        if not (isinstance(variable, str) and _ENV_NAME.fullmatch(variable)):
            raise ValueError(accepted)
        if not (isinstance(source, str) and _SECRET_KEY.fullmatch(source)):
            raise ValueError(accepted)
    return dict(value)


def _words(value: object) -> tuple[str, ...]:
    words = (value,) if isinstance(value, str) else value
    if not isinstance(words, Iterable) or isinstance(words, Mapping) or not all(isinstance(w, str) for w in words):
        raise ValueError("a string, or a list of strings")
    return tuple(words)


def _fair_key(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 200 or not value.isprintable():
        raise ValueError("up to 200 printable characters, such as the name of a tenant")
    return value


def _path(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ValueError('an absolute path, such as "/srv"')
    return value


def _matching(pattern: re.Pattern[str], accepted: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError(accepted)
        return value

    return parse


def _volumes(value: object) -> tuple[str, ...]:
    accepted = 'volumes as docker run takes them, such as "/srv/data:/data:ro" or "cache:/cache"'
    for volume in (words := _words(value)):
        source, _, rest = volume.partition(":")
        if not source or not rest.startswith("/"):
            raise ValueError(accepted)
    return words


def _devices(value: object) -> tuple[str, ...]:
    words = _words(value)
    if not all(word.startswith("/") for word in words):
        raise ValueError('devices as docker run takes them, such as "/dev/fuse" or "/dev/sda:/dev/xvda:r"')
    return words


def _address(value: object) -> str:
    import ipaddress  # only where it is needed: a producer that asks for no such thing does not wait for it

    return str(ipaddress.ip_address(value if isinstance(value, str) else ""))


def _dns(value: object) -> tuple[str, ...]:
    try:
        return tuple(_address(word) for word in _words(value))
    except ValueError:
        raise ValueError('addresses of name servers, such as ["10.0.0.53"]') from None


def _hosts(value: object) -> dict[str, str]:
    accepted = 'a mapping of host names to addresses, such as {"db": "10.0.0.5"}, or to "host-gateway"'
    if not isinstance(value, Mapping) or not all(isinstance(name, str) and name for name in value):
        raise ValueError(accepted)
    try:
        return {name: at if at == "host-gateway" else _address(at) for name, at in value.items()}
    except ValueError:
        raise ValueError(accepted) from None


def _ulimits(value: object) -> dict[str, object]:
    accepted = f"a mapping of names ({', '.join(sorted(_ULIMITS))}) to a limit or to (soft, hard); -1 is none"
    if not isinstance(value, Mapping) or not value.keys() <= _ULIMITS:
        raise ValueError(accepted)
    for limit in value.values():
        pair = tuple(limit) if isinstance(limit, list | tuple) else (limit, limit)
        whole = len(pair) == 2 and all(isinstance(n, int) and not isinstance(n, bool) and n >= -1 for n in pair)
        if not whole or (pair[0] > pair[1] >= 0) or (pair[0] == -1 and pair[1] >= 0):
            raise ValueError(accepted)
    return dict(value)


def _tmpfs(value: object) -> dict[str, int]:
    accepted = 'a mapping of absolute paths to sizes, such as {"/tmp": "64m"}'
    if not isinstance(value, Mapping) or not all(isinstance(path, str) and path.startswith("/") for path in value):
        raise ValueError(accepted)
    try:
        return {path: parse_bytes(size) for path, size in value.items()}
    except ValueError:
        raise ValueError(accepted) from None


def _signal(value: object) -> str:
    name = str(value).upper()
    name = name if name.startswith("SIG") else f"SIG{name}"
    if isinstance(value, bool) or name not in signal.Signals.__members__:
        raise ValueError('the name of a signal, such as "SIGTERM" or "INT"')
    return name


def _user(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str) or not re.fullmatch(r"[\w-]+(:[\w-]+)?", str(value)):
        raise ValueError('a user as Docker spells it: 1000, "1000:1000" or "name"')
    return str(value)


def _name(value: object) -> str:
    if not isinstance(value, str) or not _KUBERNETES_NAME.fullmatch(value) or len(value) > 253:
        raise ValueError("a name as Kubernetes takes it: lower-case letters, digits, - and .")
    return value


def _names(value: object) -> tuple[str, ...]:
    return tuple(_name(word) for word in _words(value))


def _tolerations(value: object) -> tuple[Mapping[str, Any], ...]:
    accepted = 'a list of tolerations as in a pod\'s manifest, such as [{"key": "gpu", "operator": "Exists"}]'
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise ValueError(accepted)
    found = tuple(value)
    if not all(isinstance(one, Mapping) for one in found):
        raise ValueError(accepted)
    return found


def _template(value: object) -> dict[str, Any]:
    """A mapping, or the path of a file of YAML, read where the task is declared."""
    accepted = "a pod's manifest: a mapping with its metadata and spec, or the path of a YAML file with one"
    if isinstance(value, str | os.PathLike):
        try:
            import yaml
        except ImportError as error:
            raise ValueError(f"{accepted} (a file needs PyYAML: pip install cellwork[kubernetes])") from error
        try:
            value = yaml.safe_load(Path(value).read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ValueError(f"{accepted}; the file cannot be read: {error}") from error
    if not isinstance(value, Mapping) or not all(isinstance(part, Mapping | str) for part in value.values()):
        raise ValueError(accepted)
    return dict(value)


#: Fields whose spelling is freer than their type: a string with a unit, one word for a list of words.
PARSERS: dict[str, Callable[[object], object]] = {
    "image": _image,
    "cpus": parse_cpus,
    "memory": parse_bytes,
    "memory_max": parse_bytes,
    "memory_swap": parse_bytes,
    "shm_size": parse_bytes,
    "log_max": parse_bytes,
    "pids": _count(1),
    "gpus": _count(0),
    "env": _env,
    "secrets": _secrets,
    "user": _user,
    "tmpfs": _tmpfs,
    "entrypoint": _words,
    "devices": _devices,
    "preload": _words,
    "dns": _dns,
    "extra_hosts": _hosts,
    "hostname": _matching(_HOSTNAME, "a host name of up to 63 letters, digits and -"),
    "platform": _matching(_PLATFORM, 'a platform, such as "linux/amd64"'),
    "ulimits": _ulimits,
    "workdir": _path,
    "volumes": _volumes,
    "stop_grace": _positive,
    "stop_signal": _signal,
    "start_timeout": _positive,
    "fair_key": _fair_key,
    "max_running": _count(1),
    "namespace": _name,
    "service_account": _name,
    "priority_class": _name,
    "scheduler": _name,
    "kueue_queue": _name,
    "image_pull_secrets": _names,
    "secret_env": _secret_env,
    "tolerations": _tolerations,
    "pod_template": _template,
}

ACCEPTED: dict[str, str] = {
    "executor": "one of docker, kubernetes, process, inline",
    "pull": "one of always, missing, never",
    "code": "one of ship, image",
    "result": "one of text, json, none",
    "cpus": CPUS_ACCEPTED,
    "memory": BYTES_ACCEPTED,
    "memory_max": BYTES_ACCEPTED,
    "labels": "a mapping of strings to strings",
    "annotations": "a mapping of strings to strings",
    "node_selector": "a mapping of the labels that a node must have",
    "affinity": "a mapping, as in a pod's manifest",
    "init": "True or False",
    "read_only": "True or False",
    "fresh_network": "True or False",
    "learn": "one of off, suggest, on",
    "warm": "True or False",
}
