"""``Image``: what a task's sandbox is made of, declared beside the task instead of in a Dockerfile."""

import hashlib
import json
import re
import shlex
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from . import imagefiles
from .errors import InvalidSpec
from .imagefiles import File

#: Where copied sources go unless a target is said; it is on Python's path.
_CODE = "/opt/cellwork/app"
#: Where files that only the build needs go.
_BUILD = "/opt/cellwork/build"
#: Where a step finds its secrets, one file each.
SECRETS = "/run/secrets"

_PIP = ("python3", "-m", "pip", "install", "--no-cache-dir", "--disable-pip-version-check", "--root-user-action=ignore")
_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]*(?:=[\w.+:~-]+)?", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FROM = re.compile(r"^\s*FROM\s+(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?", re.IGNORECASE | re.MULTILINE)
#: BuildKit's way to say that a step sees a secret; the classic builder cannot, so the builder looks for these.
_SECRET = re.compile(r"--mount=type=secret,(?:[^\s]*,)?id=(\w+)")
_INCLUDE = re.compile(r"^\s*(-r|-c|--requirement|--constraint)\b", re.MULTILINE)


class Image(msgspec.Struct, frozen=True):
    """An image as a value: each method gives a new one with a step more; nothing is built here.

    ``Image("python:3.12-slim").apt("libpq5").pip("pandas==2.2.3").copy("shop/")``

    The worker builds it when the first task needs it. Its tag is a hash of all that goes in, files too.
    """

    base: str = ""
    #: The repository: ``cellwork/NAME``. Default: the base's last word.
    name: str = ""
    #: Where it is pulled from and pushed to, such as ``registry.example:5000``. Default: only built, never pulled.
    registry: str = ""
    #: A Dockerfile of your own, instead of base and steps.
    dockerfile: str = ""
    #: What that Dockerfile may COPY: files and folders, relative to `root`.
    files: tuple[str, ...] = ()
    #: What relative paths are relative to. Default: the folder with the declaring module's top-level package.
    root: str = ""
    #: Instructions of a Dockerfile, one a step.
    steps: tuple[str, ...] = ()
    #: What its COPY steps copy, as said.
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check what was given, where it was written.

        Raises:
            InvalidSpec: names the field, the value and what is accepted.
        """
        if bool(self.base) == bool(self.dockerfile):
            raise InvalidSpec('image: give a base, such as Image("python:3.12-slim"), or dockerfile="path", not both')
        if re.search(r"\s", self.base):
            raise InvalidSpec(f"image: base={self.base!r} is not accepted; it takes the name of an image")
        if self.dockerfile and self.steps:
            raise InvalidSpec("image: with dockerfile= the steps are written there")
        if self.files and not self.dockerfile:
            raise InvalidSpec("image: files= is a list, and says what dockerfile= may COPY; else write .copy(…)")
        if not self.name:
            word = (Path(self.dockerfile).stem if self.dockerfile else self.base.split("@")[0]).rpartition("/")[2]
            msgspec.structs.force_setattr(self, "name", word.partition(":")[0].lower())
        if not _NAME.fullmatch(self.name):
            raise InvalidSpec(f"image: name={self.name!r} is not accepted; it takes letters, digits and . _ - between")
        if not self.root:
            msgspec.structs.force_setattr(self, "root", _callers_root())
        msgspec.structs.force_setattr(self, "files", tuple(self.files))

    @classmethod
    def cuda(cls, version: str = "12.6.3", name: str = "cuda") -> "Image":
        """NVIDIA's runtime of CUDA `version` with Python and pip; the task must still ask for ``gpus``."""
        made = cls(f"nvidia/cuda:{version}-cudnn-runtime-ubuntu22.04", name=name, root=_callers_root())
        return made.apt("python3", "python3-pip")

    def apt(self, *packages: str) -> "Image":
        """Install Debian packages, ``name`` or ``name=version``."""
        wrong = [package for package in packages if not _PACKAGE.fullmatch(package)]
        if wrong or not packages:
            raise InvalidSpec(f"image: apt{packages!r} is not accepted; it takes names of Debian packages")
        return self.run(
            "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "
            f"{' '.join(packages)} && rm -rf /var/lib/apt/lists/*"
        )

    def pip(
        self,
        *packages: str,
        requirements: str = "",
        pyproject: str = "",
        index_url: str = "",
        extra_index_url: str = "",
        index_secret: str = "",
    ) -> "Image":
        """Install Python libraries.

        Args:
            *packages: as for ``pip install``: ``"pandas==2.2.3"``.
            requirements: a requirements file, which must not include others.
            pyproject: a pyproject.toml, whose dependencies are installed; a uv.lock beside it says which versions.
            index_url: another package index; without a password, which would stay in the image.
            extra_index_url: a further one; likewise.
            index_secret: the name of the builder's secret that is the whole address of an index, password and all.
        """
        wrong = [one for one in packages if one.startswith("-") or not one.strip()]
        if wrong or not (packages or requirements or pyproject):
            raise InvalidSpec(f"image: pip{packages!r} is not accepted; it takes packages, requirements= or pyproject=")
        words = list(_PIP)
        for option, url in (("--index-url", index_url), ("--extra-index-url", extra_index_url)):
            if "@" in urlsplit(url).netloc:
                raise InvalidSpec(
                    f"image: {option} has a password in it, which everybody who has the image could read; give the "
                    f"builder the whole address as a secret, and its name as index_secret="
                )
            words += [option, url] if url else []
        image = self
        if requirements:
            if _INCLUDE.search(imagefiles.read(self._one(requirements)).decode(errors="replace")):
                raise InvalidSpec(
                    f"image: {requirements} includes other files (-r, -c), which would not be in the image"
                )
            there = f"{_BUILD}/{requirements.lstrip('/')}"
            image = image._copy(requirements, there)
            words += ["--requirement", there]
        if pyproject:
            image, more = image._pyproject(pyproject)
            words += more
        words += packages
        if len(words) == len(_PIP):
            return image  # a project without dependencies
        if not index_secret:
            return image._exec(words)
        return image.run(
            f'PIP_INDEX_URL="$(cat {SECRETS}/{index_secret})" exec {shlex.join(words)}', secrets=(index_secret,)
        )

    def copy(self, source: str, target: str = "") -> "Image":
        """Copy a file or a folder.

        Args:
            source: relative to `root`; ends in a slash or not.
            target: the absolute path that it gets. Default: where Python finds it, for tasks with ``code="image"``.
        """
        source = source.rstrip("/") or source
        if target and not target.startswith("/"):
            raise InvalidSpec(f"image: copy({source!r}, {target!r}): the target must be an absolute path in the image")
        self._find(source)
        if target:
            return self._copy(source, target)
        inside = Path(source).name if Path(source).is_absolute() else Path(source).as_posix()
        return self._copy(source, str(Path(_CODE, inside))).env(PYTHONPATH=_CODE)

    def run(self, command: str, secrets: tuple[str, ...] = ()) -> "Image":
        """Run a shell command while building.

        Args:
            command: for ``/bin/sh -c``.
            secrets: names of the builder's secrets, which this step alone finds as files ``/run/secrets/NAME``. They
                are in no layer, no history and no message; what the command writes elsewhere stays in the image.
        """
        if not all(_VARIABLE.fullmatch(name) for name in secrets):
            raise InvalidSpec(f"image: secrets={secrets!r} is not accepted; it takes a list of names like PIP_INDEX")
        return self._exec(["/bin/sh", "-c", command], secrets)

    def env(self, **variables: str) -> "Image":
        """Set environment variables, for the steps that follow and for the tasks. No secrets: they can be read."""
        for name, value in variables.items():
            if not _VARIABLE.fullmatch(name) or not isinstance(value, str) or not value.isprintable():
                raise InvalidSpec(f"image: env({name}={value!r}) is not accepted; it takes names and one-line strings")
        quoted = (f"{name}={_quote(value)}" for name, value in variables.items())
        return self._step("ENV " + " ".join(quoted))

    def user(self, name: str) -> "Image":
        """The user of the steps that follow. Whom a task runs as is said by its own option ``user``."""
        if not re.fullmatch(r"[\w-]+(:[\w-]+)?", name):
            raise InvalidSpec(f'image: user({name!r}) is not accepted; it takes "name" or "uid:gid"')
        return self._step(f"USER {name}")

    @property
    def text(self) -> str:
        """The Dockerfile.

        Raises:
            InvalidSpec: `dockerfile` cannot be read.
        """
        if self.dockerfile:
            return imagefiles.read(self._one(self.dockerfile)).decode(errors="replace")
        return "\n".join((f"FROM {self.base}", *self.steps)) + "\n"

    @property
    def secrets(self) -> tuple[str, ...]:
        """Names of the secrets that its build needs."""
        return tuple(dict.fromkeys(_SECRET.findall(self.text)))

    @property
    def bases(self) -> tuple[str, ...]:
        """The images that it starts from: what a policy is asked about."""
        found = _FROM.findall(self.text)
        stages = {stage.lower() for _, stage in found} | {"scratch"}
        return tuple(dict.fromkeys(base for base, _ in found if base.lower() not in stages))

    @property
    def context(self) -> tuple[File, ...]:
        """The files that the build gets, by name.

        Raises:
            InvalidSpec: one is not there.
        """
        found = {file.name: file for source in (*self.files, *self.sources) for file in self._find(source)}
        return tuple(found[name] for name in sorted(found))

    @property
    def digest(self) -> str:
        """SHA-256 of all that goes in, hexadecimal: the Dockerfile and the files' names and contents.

        Raises:
            InvalidSpec: a file cannot be read.
        """
        whole = hashlib.sha256(self.text.encode())
        for file in self.context:
            content = hashlib.sha256(imagefiles.read(file)).hexdigest()
            whole.update(json.dumps([file.name, file.executable, content]).encode())
        return whole.hexdigest()

    @property
    def repository(self) -> str:
        """The tag without its hash."""
        return f"{self.registry}/cellwork/{self.name}" if self.registry else f"cellwork/{self.name}"

    @property
    def tag(self) -> str:
        """``cellwork/NAME:HASH``: another one as soon as anything that goes in is another.

        Raises:
            InvalidSpec: a file cannot be read.
        """
        return f"{self.repository}:{self.digest[:12]}"

    def _pyproject(self, path: str) -> tuple["Image", list[str]]:
        lock = str(Path(path).with_name("uv.lock"))
        if (Path(self.root) / lock).exists():
            folder = str(Path(_BUILD, Path(path).parent.as_posix().lstrip("/")))
            image = self._copy(path, f"{folder}/pyproject.toml")._copy(lock, f"{folder}/uv.lock")
            # In the image itself: what is locked depends on its Python and platform.
            image = image._exec([*_PIP, "uv"])
            export = "uv export --frozen --no-dev --no-emit-project --quiet --output-file cellwork.lock"
            return image.run(f"cd {shlex.quote(folder)} && python3 -m {export}"), [
                "--requirement",
                f"{folder}/cellwork.lock",
            ]
        try:
            project = tomllib.loads(imagefiles.read(self._one(path)).decode()).get("project", {})
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidSpec(f"image: {path} is not TOML: {error}") from None
        return self, [str(one) for one in project.get("dependencies", [])]

    def _exec(self, argv: list[str], secrets: tuple[str, ...] = ()) -> "Image":
        # As JSON no word is read by a shell.
        mounts = "".join(f"--mount=type=secret,id={name},required=true " for name in secrets)
        return self._step(f"RUN {mounts}{json.dumps(argv)}")

    def _copy(self, source: str, target: str) -> "Image":
        # In the context, what is outside of `root` has its last part as its name.
        name = Path(source).name if Path(source).is_absolute() else Path(source).as_posix()
        copied = self._step("COPY " + json.dumps([name, target]))
        return msgspec.structs.replace(copied, sources=(*self.sources, source))

    def _step(self, step: str) -> "Image":
        if self.dockerfile:
            raise InvalidSpec("image: with dockerfile= the steps are written there")
        return msgspec.structs.replace(self, steps=(*self.steps, step))

    def _find(self, source: str) -> list[File]:
        return imagefiles.find(Path(self.root), source)

    def _one(self, source: str) -> File:
        found = self._find(source)
        if not found[0].path.is_file() or len(found) > 1:
            raise InvalidSpec(f"image: {source!r} is a folder; a file is expected")
        return found[0]


def _quote(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{escaped}"'


def _callers_root() -> str:
    """The folder that the top-level module or package of the code that calls us is in."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") in (__name__, "msgspec"):
        frame = frame.f_back
    file, module = frame.f_globals.get("__file__"), str(frame.f_globals.get("__name__"))
    if file is None or module == "__main__":
        return str(Path.cwd())
    path = Path(file).resolve()
    depth = module.count(".") + (path.name == "__init__.py")
    return str(path.parents[min(depth, len(path.parents) - 1)])
