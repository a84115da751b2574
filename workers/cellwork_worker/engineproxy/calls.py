"""Which of the engine's calls pass. Pure.

Paths and parameters are those of the Docker Engine API. Whatever is not listed here is refused.
"""

import json
import re
from collections.abc import Mapping
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import msgspec


class Refused(Exception):
    """The call does not pass; its message is for the worker, which quotes it to whoever wrote the task."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One that may pass."""

    method: str
    #: Decoded; with the API's version in front, as it was asked for.
    path: str
    #: Encoded anew.
    query: str
    #: What it does: the last word of its path, such as ``create``.
    kind: str
    #: The container it is about, by id or name, which has to be one of ours.
    container: str = ""

    def target(self, container_id: str = "") -> str:
        """For the request line, about the container with that id."""
        path = self.path
        if self.container:
            version, _, rest = path.partition("/containers/")
            path = f"{version}/containers/{container_id}{rest.removeprefix(self.container)}"
        return f"{path}?{self.query}" if self.query else path


#: By name or by id.
CONTAINER_NAME = re.compile(r"[a-zA-Z0-9][\w.-]*", re.ASCII)

_CONTAINER = rf"/containers/(?P<container>{CONTAINER_NAME.pattern})"
_IMAGE = r"/images/[a-z0-9][\w.:/@-]*"

#: Method, path and the parameters that it may have.
_CALLS = tuple(
    (method, re.compile(r"(?:/v1\.\d+)?" + path, re.ASCII), frozenset(parameters.split()))
    for method, path, parameters in (
        ("GET", "/(?P<kind>_ping)", ""),
        ("HEAD", "/(?P<kind>_ping)", ""),
        ("GET", "/(?P<kind>version)", ""),
        ("GET", "/(?P<kind>info)", ""),
        ("GET", "/(?P<kind>events)", "filters since until"),
        ("GET", "/containers/(?P<kind>json)", "all filters limit size trunc_cmd"),
        ("POST", "/containers/(?P<kind>create)", "name platform"),
        ("GET", f"{_CONTAINER}/(?P<kind>json)", ""),
        ("GET", f"{_CONTAINER}/(?P<kind>logs)", "follow stdout stderr tail timestamps since until"),
        ("GET", f"{_CONTAINER}/(?P<kind>stats)", "stream one-shot"),
        ("POST", f"{_CONTAINER}/(?P<kind>attach)", "stdin stdout stderr stream logs"),
        ("POST", f"{_CONTAINER}/(?P<kind>start)", ""),
        ("POST", f"{_CONTAINER}/(?P<kind>wait)", "condition"),
        ("POST", f"{_CONTAINER}/(?P<kind>kill)", "signal"),
        ("POST", f"{_CONTAINER}/(?P<kind>rename)", "name"),
        ("DELETE", _CONTAINER, "force v link"),
        ("GET", f"{_IMAGE}/json(?P<kind>)", ""),
        # Only from a registry: `fromSrc` would give any content any name.
        ("POST", "/images/create(?P<kind>)", "fromImage tag platform"),
        # Without `networkmode`, `remote` and the like.
        ("POST", "/(?P<kind>build)", "t dockerfile rm forcerm labels"),
    )
)

#: Images that are built from declarations. A build under any other name could replace an image of the cluster's.
_BUILT = re.compile(r"cellwork/[a-z0-9][\w./-]*:[0-9a-f]{12}", re.ASCII)


def check(method: str, target: str, installation: str) -> Call:
    """The call, if it may pass.

    Args:
        method, target: of the request line.
        installation: whose containers may be listed.

    Raises:
        Refused: it may not.
    """
    parts = urlsplit(target)
    path = unquote(parts.path)
    for allowed, pattern, parameters in _CALLS:
        match = pattern.fullmatch(path)
        if method != allowed or match is None or ".." in path or "//" in path:
            continue
        query = parse_qs(parts.query, keep_blank_values=True)
        if unknown := sorted(query.keys() - parameters):
            raise Refused(f"{method} {path}: the parameter {unknown[0]} does not pass the engine's proxy")
        found = match.groupdict()
        call = Call(
            method=method,
            path=path,
            query=urlencode({name: values[0] for name, values in query.items()}),
            kind=found.get("kind") or "",
            container=found.get("container") or "",
        )
        _check_query(call, path, query, installation)
        return call
    raise Refused(f"{method} {path}: this call does not pass the engine's proxy; a worker does not need it")


def _check_query(call: Call, path: str, query: Mapping[str, list[str]], installation: str) -> None:
    if repeated := [name for name, values in query.items() if len(values) > 1]:
        raise Refused(f"{call.method} {path}: the parameter {repeated[0]} is there more than once")
    if call.kind == "events" and _filters(query).get("type") != ["image"]:
        raise Refused(f"{call.method} {path}: only events of images pass the engine's proxy (filters: type=image)")
    if call.kind == "json" and not call.container:
        wanted = f"cellwork.installation={installation}"
        if wanted not in (_filters(query).get("label") or ()):
            raise Refused(f"{call.method} {path}: only this installation's are listed (filters: label={wanted})")
    if call.kind == "build" and not _BUILT.fullmatch(query.get("t", [""])[0]):
        raise Refused(f"{call.method} {path}: an image is built as cellwork/NAME:HASH only, not as {query.get('t')}")


def _filters(query: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """As docker-py spells them: name to values."""
    try:
        found = json.loads(query.get("filters", ["{}"])[0])
        return msgspec.convert(found, dict[str, list[str]])
    except (ValueError, msgspec.ValidationError):
        raise Refused("filters: JSON is expected, names with lists of values") from None
