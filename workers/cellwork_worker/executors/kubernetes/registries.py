"""Documents of images, from the registries that hold them (OCI distribution specification, "Pull")."""

import base64
import hashlib
import os
import re
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec
import requests

#: Seconds: of one request's connection and of a pause in its answer; and of all that one image takes.
_TIMEOUT, PATIENCE = (3.0, 5.0), 10.0

#: Bytes of a document; registries take no longer manifest (distribution specification, "Pushing Manifests").
_MOST = 4 << 20

_MAX_REDIRECTS = 3

_ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PARAMETER = re.compile(r'([A-Za-z_]+)="([^"]*)"')

#: What it calls itself in images' names, where it is, and under which name Docker keeps its login.
_HUB, _HUBS_HOST, _HUBS_LOGIN = "docker.io", "registry-1.docker.io", "https://index.docker.io/v1/"

_ALL = "*"


class Unanswered(Exception):
    """No registry gave the document; why."""


class Source(NamedTuple):
    """Where an image's documents are."""

    #: The registry, as images' names have it.
    registry: str
    #: The image in it.
    name: str
    #: Its digest, or a tag, which may be another image tomorrow.
    reference: str

    @property
    def url(self) -> str:
        """Of its documents; as for Docker, a registry of this machine needs no TLS."""
        host = _HUBS_HOST if self.registry == _HUB else self.registry
        local = self.registry.partition(":")[0] in ("localhost", "127.0.0.1")
        return f"{'http' if local else 'https'}://{host}/v2/{self.name}"

    @property
    def fixed(self) -> bool:
        """It is the same image for ever."""
        return is_digest(self.reference)


def digest_of(document: bytes) -> str:
    """As registries count it."""
    return f"sha256:{hashlib.sha256(document).hexdigest()}"


def is_digest(text: str) -> bool:
    """Of the kind that all registries have."""
    return _DIGEST.fullmatch(text) is not None


def without_tag(image: str) -> str:
    """An image's name alone."""
    folder, slash, last = image.partition("@")[0].rpartition("/")
    return folder + slash + last.partition(":")[0]


def source(image: str) -> Source | None:
    """None: it has a digest that is not understood."""
    name, _, digest = image.partition("@")
    if digest and not is_digest(digest):
        return None
    tag = name.rpartition("/")[2].partition(":")[2]
    name = without_tag(name)
    registry, _, rest = name.partition("/")
    if not rest or not (registry == "localhost" or {".", ":"} & set(registry)):
        registry, rest = _HUB, name
    rest = f"library/{rest}" if registry == _HUB and "/" not in rest else rest
    return Source(registry, rest, digest or tag or "latest")


class _Login(msgspec.Struct):
    auth: str = ""


class _DockerConfig(msgspec.Struct):
    auths: dict[str, _Login] = {}


class Registries:
    """Those that may be asked; with the worker's own logins (``docker login``, or a Secret of that kind as a file)."""

    def __init__(self, allowed: Collection[str]) -> None:
        """`allowed`: as images' names have them, or ``*``."""
        self._allowed = frozenset(allowed)

    def __contains__(self, registry: str) -> bool:
        return registry in self._allowed or _ALL in self._allowed

    def reader(self, of: Source) -> "Reader":
        """For the documents of one image.

        Raises:
            Unanswered: the logins cannot be read.
        """
        return Reader(of, _login(of.registry))


class Reader:
    """Of one image's documents, within a few seconds."""

    def __init__(self, of: Source, login: str | None) -> None:
        self._source = of
        self._login = login
        self._until = time.monotonic() + PATIENCE
        self._session = requests.Session()
        self._session.max_redirects = _MAX_REDIRECTS
        self._session.headers.update({"Accept": _ACCEPT, "User-Agent": "cellwork"})

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def manifest(self, reference: str) -> bytes:
        """A manifest, or an index of some.

        Raises:
            Unanswered
        """
        return self._document("manifests", reference)

    def blob(self, digest: str) -> bytes:
        """Anything else.

        Raises:
            Unanswered
        """
        return self._document("blobs", digest)

    def _document(self, kind: str, reference: str) -> bytes:
        if not is_digest(reference) and (kind, reference) != ("manifests", self._source.reference):
            raise Unanswered(f"{reference:.80} is no digest that is understood")
        url = f"{self._source.url}/{kind}/{reference}"
        try:
            status, data, challenge = self._get(url)
            if status == requests.codes.unauthorized:
                self._authorize(challenge)
                status, data, _ = self._get(url)
        except requests.RequestException as error:
            raise Unanswered(str(error)) from error
        if status != requests.codes.ok:
            raise Unanswered(f"{url} gives status {status}")
        if is_digest(reference) and digest_of(data) != reference:
            raise Unanswered(f"{url} gives something else")
        return data

    def _get(self, url: str, **options: object) -> tuple[int, bytes, str]:
        with self._session.get(url, stream=True, timeout=_TIMEOUT, **options) as response:  # type: ignore[arg-type]
            data = b""
            for piece in response.iter_content(1 << 16):
                data += piece
                if len(data) > _MOST or time.monotonic() > self._until:
                    raise Unanswered(f"{url} gives more than {_MOST} bytes, or takes more than {PATIENCE:g} s")
            return response.status_code, data, response.headers.get("WWW-Authenticate", "")

    def _authorize(self, challenge: str) -> None:
        """Answer a registry's question who asks (distribution specification, "Token Authentication")."""
        scheme, _, rest = challenge.partition(" ")
        asked = dict(_PARAMETER.findall(rest))
        basic = {} if self._login is None else {"Authorization": f"Basic {self._login}"}
        if scheme.lower() != "bearer":
            self._session.headers.update(basic)
            return
        realm = asked.pop("realm", "")
        if urlsplit(realm).scheme != urlsplit(self._source.url).scheme:
            raise Unanswered(f"{self._source.registry} sends whoever asks to {realm:.200}")
        wanted = {name: asked[name] for name in ("service", "scope") if name in asked}
        status, data, _ = self._get(realm, params=wanted, headers=basic)
        try:
            told = msgspec.json.decode(data, type=dict[str, object])
        except msgspec.MsgspecError:
            told = {}
        token = told.get("token") or told.get("access_token")
        if not isinstance(token, str):
            raise Unanswered(f"{realm} gives no token, but status {status}")
        self._session.headers["Authorization"] = f"Bearer {token}"


def _login(registry: str) -> str | None:
    """As the file has it: user and password, in base64. None: it has none, and whoever asks is nobody."""
    folder = os.environ.get("DOCKER_CONFIG")
    path = Path(folder) if folder else Path.home() / ".docker"
    try:
        known = msgspec.json.decode((path / "config.json").read_bytes(), type=_DockerConfig).auths
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise Unanswered(f"the logins in {path}/config.json cannot be read: {error}") from error
    login = _of(known, registry)
    try:
        base64.b64decode(login, validate=True)
    except ValueError:
        raise Unanswered(f"the login for {registry} in {path}/config.json is not base64") from None
    return login or None


def _of(known: Mapping[str, _Login], registry: str) -> str:
    names = [_HUBS_LOGIN] if registry == _HUB else []
    for name in (*names, registry, f"https://{registry}", f"https://{registry}/", f"https://{registry}/v1/"):
        if name in known:
            return known[name].auth
    return ""
