"""The files that go into an image: found, read and named the same way on every machine."""

import os
from pathlib import Path

import msgspec

from .errors import InvalidSpec


class File(msgspec.Struct, frozen=True):
    """One file of a build's context."""

    #: In the context, with slashes.
    name: str
    path: Path
    executable: bool


def find(root: Path, source: str) -> list[File]:
    """The file `source`, or all files of the folder of that name, sorted; names are relative to `root`.

    Hidden files, compiled Python and symbolic links to folders stay behind, as with the code that ships.

    Args:
        root: the folder that relative sources are looked for in.
        source: a path; one outside of `root` must be absolute, and is named by its last part.

    Raises:
        InvalidSpec: there is no such file or folder, or a relative path leads out of `root`.
    """
    path = root / source
    if not Path(source).is_absolute() and not path.resolve().is_relative_to(root.resolve()):
        raise InvalidSpec(f"image: {source!r} leads out of {root}; give the absolute path, or another root=")
    if not path.exists():
        raise InvalidSpec(f"image: there is no {source!r} in {root}; correct the path, or say root= to Image")
    base = path.parent if Path(source).is_absolute() else root
    if path.is_file():
        return [_file(base, path)]
    found = []
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not _stays_behind(name)]
        found += [_file(base, Path(folder, name)) for name in names if not _stays_behind(name)]
    if not found:
        raise InvalidSpec(f"image: the folder {source!r} in {root} has no files")
    return sorted(found, key=lambda file: file.name)


def read(file: File) -> bytes:
    """The content.

    Raises:
        InvalidSpec: it cannot be read.
    """
    try:
        return file.path.read_bytes()
    except OSError as error:
        raise InvalidSpec(f"image: {file.path} cannot be read: {error.strerror}") from None


def _file(base: Path, path: Path) -> File:
    return File(path.relative_to(base).as_posix(), path, os.access(path, os.X_OK))


def _stays_behind(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__" or name.endswith((".pyc", ".pyo"))
