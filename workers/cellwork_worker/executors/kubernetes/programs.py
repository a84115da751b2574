"""Which program an image runs where nobody says another: no cluster tells that, its registry does."""

import logging
import threading
import time
from concurrent.futures import Future

import msgspec

from cellwork_worker.executors.shell import Program, fitting
from cellwork_worker.launch import Launch

from .registries import Reader, Registries, Source, Unanswered, digest_of, source, without_tag

logger = logging.getLogger("cellwork.worker")

#: Answers that are kept; seconds for which what a tag means is; and for which one that did not come is not asked for.
_MAX_KNOWN, _TAG, _AGAIN = 1000, 60.0, 600.0

#: Of an image's platforms, whose programs have to be the same.
_MAX_PLATFORMS = 16


#: Whatever it may be: can a shell be around the command?
_SOME = Program(("some",))


class _Platform(msgspec.Struct, frozen=True):
    os: str = ""
    architecture: str = ""
    variant: str = ""


class _Descriptor(msgspec.Struct, frozen=True):
    digest: str
    platform: _Platform = _Platform()


class _Manifest(msgspec.Struct, frozen=True):
    """Of an image, or an index of several."""

    config: _Descriptor | None = None
    manifests: tuple[_Descriptor, ...] = ()


class _Run(msgspec.Struct, frozen=True, rename="pascal"):
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None


class _Config(msgspec.Struct, frozen=True):
    config: _Run | None = None


class Programs:
    """Safe to use from many threads, of which one asks."""

    def __init__(self, registries: Registries) -> None:
        self._registries = registries
        self._lock = threading.Lock()
        #: By image and platform, with the time until which it holds; the one that was asked for first at the front.
        self._known: dict[tuple[str, str | None], tuple[float, Future[Program | None]]] = {}

    def of(self, launch: Launch) -> Program | None:
        """The one of a command whose task does not say it, where that has to be known. None: it is not."""
        spec = launch.spec
        if launch.payload is not None or spec.entrypoint is not None or spec.image is None or spec.pod_template:
            return None
        found = source(spec.image)
        if found is None or found.registry not in self._registries or fitting(launch, _SOME) is None:
            return None
        if spec.pull == "never" and not found.fixed:
            return None  # what its nodes have under that name may be in no registry
        key = (spec.image, spec.platform)
        with self._lock:
            until, answer = self._known.get(key, (0.0, Future()))
            asks = time.monotonic() > until
            if asks:
                self._known.pop(key, None)
                answer = Future()
                self._known[key] = (float("inf"), answer)
                if len(self._known) > _MAX_KNOWN:
                    self._known.pop(next(iter(self._known)))
        if asks:
            self._ask(key, found, answer)
        return answer.result()

    def _ask(self, key: tuple[str, str | None], found: Source, answer: "Future[Program | None]") -> None:
        image, platform = key
        known, until = None, time.monotonic() + (float("inf") if found.fixed else _TAG)
        try:
            with self._registries.reader(found) as reader:
                known = _program(reader, image, found.reference, platform)
        except (Unanswered, msgspec.MsgspecError) as error:
            logger.warning(
                "what image %s runs is not known, so its short commands have no figures: %s; asked again in %g s",
                image,
                error,
                _AGAIN,
            )
        finally:
            with self._lock:
                self._known[key] = (time.monotonic() + _AGAIN if known is None else until, answer)
            answer.set_result(known)


def _program(reader: Reader, image: str, reference: str, platform: str | None) -> Program:
    """The one that all its platforms have which it may run on.

    Raises:
        Unanswered, msgspec.MsgspecError
    """
    document = reader.manifest(reference)
    manifest = msgspec.json.decode(document, type=_Manifest)
    digests = [one.digest for one in manifest.manifests if _fits(one.platform, platform)]
    found = {_of(reader, manifest)} if manifest.config else set()
    for one in dict.fromkeys(digests[: _MAX_PLATFORMS + 1]):
        found.add(_of(reader, msgspec.json.decode(reader.manifest(one), type=_Manifest)))
    if len(found) != 1 or len(digests) > _MAX_PLATFORMS:
        raise Unanswered(f"it has {len(found)} programs, by platform")
    return found.pop()._replace(image=f"{without_tag(image)}@{digest_of(document)}")


def _of(reader: Reader, manifest: _Manifest) -> Program:
    if manifest.config is None:
        raise Unanswered("it has a manifest without a configuration")
    run = msgspec.json.decode(reader.blob(manifest.config.digest), type=_Config).config or _Run()
    return Program(run.entrypoint or (), run.cmd or ())


def _fits(has: _Platform, platform: str | None) -> bool:
    """`platform`: as the spec has it, ``os/architecture[/variant]``; None: any, of Linux."""
    if platform is None:
        return has.os == "linux"
    os, _, rest = platform.partition("/")
    architecture, _, variant = rest.partition("/")
    return (has.os, has.architecture) == (os, architecture) and variant in ("", has.variant)
