"""The code that travels: a task's source as a zip file, made once per content."""

import ast
import hashlib
import io
import os
import stat
import sys
import sysconfig
import threading
import zipfile
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    PathFinder,
    SourceFileLoader,
)

import msgspec

from cellwork.errors import InvalidSpec, PayloadTooLarge
from cellwork.quantity import format_bytes

_INSTEAD = 'build it into the image and say code="image", or name the folder that holds it in code_root="…"'

#: The earliest time a zip file can carry: the same content must give the same bytes whenever it was written.
_TIME = (1980, 1, 1, 0, 0, 0)

#: Bytes read at once, and so how far past the limit memory can grow.
_READ_BYTES = 1 << 20

#: Folders of installed packages: what stands side by side there does not belong together.
_INSTALLED = frozenset(os.path.realpath(sysconfig.get_path(n)) for n in ("stdlib", "platstdlib", "purelib", "platlib"))


class Bundle(msgspec.Struct, frozen=True):
    """Source code, zipped. Paths in it are relative to the folder that goes on ``sys.path``."""

    #: SHA-256 of `data`, hexadecimal; the same for the same content.
    digest: str
    data: bytes


def bundle(module: str, file: str, root: str | None, limit: int) -> Bundle:
    """The code of a task: its top-level module or package, and what that imports from beside it.

    A package ships whole, data files too, without hidden files and compiled Python. Modules and packages in the same
    folder ship when an ``import`` statement anywhere in the code names them; what is imported by a computed name needs
    `root`. From site-packages and the standard library, only the package itself ships.

    Made anew only when a file's size or time of modification has changed. May be called from many threads.

    Args:
        module: the task's module, dotted.
        file: that module's ``__file__``; empty where it has none.
        root: ``code_root``: a folder, absolute or relative to the worker's, that ships whole instead.
        limit: most bytes, zipped.

    Raises:
        InvalidSpec: there is no source, or it cannot be read, or a symbolic link leads out of its folder.
        PayloadTooLarge: it is longer than `limit`.
    """
    folder, top = _locate(module, file) if root is None else _named(module, root)
    with _sources_lock:
        source = _sources.get((folder, top))
        if source is None:
            source = _sources[folder, top] = _Source(folder, top)
    made = source.bundle(module, limit)
    if len(made.data) > limit:
        raise source.too_large(module, limit)
    return made


def _locate(module: str, file: str) -> tuple[str, str]:
    """The folder on ``sys.path`` that `module` was found in, and the file or folder in there that is its top level."""
    problem = _problem(module, file)
    path = os.path.abspath(file)
    stem, _, _ = os.path.basename(path).partition(".")
    parts = module.split(".") if stem != "__init__" else [*module.split("."), "__init__"]
    folder = path
    for part in reversed(parts):
        folder, name = os.path.split(folder)
        if name.partition(".")[0] != part:
            problem = problem or f"its file {file} is not where its name says"
    if problem:
        raise InvalidSpec(f"task module {module}: its source cannot be shipped: {problem}; {_INSTEAD}")
    return folder, os.path.basename(path) if len(parts) == 1 else parts[0]


def _problem(module: str, file: str) -> str:
    if module == "__main__":
        return "it is the program that was started; move the task to a module of its own"
    if not file:
        return "it has no file"
    if file.endswith((".pyc", ".pyo")):
        return f"there is only compiled code, {file}"
    if not os.path.isfile(file):
        return f"{file} is not a file that can be read (deleted, or inside of an archive)"
    return ""


def _named(module: str, root: str) -> tuple[str, str]:
    folder = os.path.abspath(root)
    top = module.partition(".")[0]
    if module == "__main__":
        raise InvalidSpec(f"task module {module}: {_problem(module, '')}")
    if not os.path.isdir(folder):
        raise InvalidSpec(f"task module {module}: code_root={root!r} is no folder on this worker ({folder})")
    if not any(entry.partition(".")[0] == top for entry in os.listdir(folder)):
        raise InvalidSpec(
            f"task module {module}: code_root={root!r} ({folder}) does not contain {top}; name the folder that does"
        )
    return folder, ""


class _Source:
    """One top-level module or package, or one code_root, and the newest bundle of it."""

    def __init__(self, folder: str, top: str) -> None:
        """`top`: name of the file or folder in `folder`; empty: all of `folder`."""
        self._folder = folder
        self._top = top
        self._lock = threading.Lock()
        self._found = _Found(folder)
        self._made: Bundle | None = None

    def bundle(self, module: str, limit: int) -> Bundle:
        with self._lock:
            if self._made is None or not self._found.is_current():
                self._made = None
                try:
                    self._found = self._find(module)
                    self._made = self._zip(module, limit)
                except OSError as error:
                    raise InvalidSpec(
                        f"task module {module}: its source cannot be read: {error}; {_INSTEAD}"
                    ) from error
            return self._made

    def too_large(self, module: str, limit: int) -> PayloadTooLarge:
        sizes = sorted(((size, path) for path, (_, size, _) in self._found.files.items()), reverse=True)
        largest = ", ".join(f"{os.path.relpath(path, self._folder)} ({format_bytes(size)})" for size, path in sizes[:5])
        return PayloadTooLarge(
            f"task module {module}: its code in {self._folder}, {format_bytes(sum(size for size, _ in sizes))} in "
            f"{len(sizes)} files, is larger than payload_max_bytes={limit} even when zipped. The largest: {largest}. "
            f'Move data out of the package, or build the code into the image and say code="image"'
        )

    def _find(self, module: str) -> "_Found":
        found = _Found(self._folder)
        found.add(module, os.path.join(self._folder, self._top) if self._top else self._folder)
        if self._top and not _is_installed(self._folder):
            found.add_siblings(module, self._top.partition(".")[0])
        return found

    def _zip(self, module: str, limit: int) -> Bundle:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            names = {os.path.relpath(path, self._folder).replace(os.sep, "/"): path for path in self._found.files}
            for name in sorted(names):
                try:
                    source = open(names[name], "rb")  # noqa: SIM115 - only its absence is caught here
                except FileNotFoundError:
                    continue  # deleted since it was found; its folder's time says so to the next task
                with source:
                    info = zipfile.ZipInfo(name, _TIME)
                    info.compress_type = zipfile.ZIP_DEFLATED
                    runs = os.stat(source.fileno()).st_mode & stat.S_IXUSR
                    info.external_attr = (stat.S_IFREG | (0o755 if runs else 0o644)) << 16
                    with archive.open(info, "w") as target:
                        while chunk := source.read(_READ_BYTES):
                            target.write(chunk)
                            if buffer.tell() > limit:
                                raise self.too_large(module, limit)
        data = buffer.getvalue()
        return Bundle(digest=hashlib.sha256(data).hexdigest(), data=data)


_sources: dict[tuple[str, str], _Source] = {}
_sources_lock = threading.Lock()


class _Found:
    """The files of a source as they were when it was read."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._real = os.path.realpath(folder)
        #: Path to time of modification, size and inode.
        self.files: dict[str, tuple[int, int, int]] = {}
        self._folders: dict[str, int] = {}
        #: Top-level names that the code imports, and the entries of the folder that have these names. The folder's
        #: own time would not do: a log or a database beside the code changes it with every task.
        self._imported: set[str] = set()
        self._beside: set[str] = set()

    def is_current(self) -> bool:
        try:
            return (
                all(os.stat(path).st_mtime_ns == time for path, time in self._folders.items())
                and all(_stamp(os.stat(path)) == stamp for path, stamp in self.files.items())
                and self._list_beside() == self._beside
            )
        except OSError:
            return False

    def add(self, module: str, path: str, above: tuple[tuple[int, int], ...] = ()) -> None:
        """Add a file, or a folder with all that is in it. `above`: the folders on the way, for links that lead back."""
        if os.path.islink(path):
            self._check_link(module, path)
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return  # deleted since its folder was listed
        if stat.S_ISREG(status.st_mode):
            self.files[path] = _stamp(status)
        elif stat.S_ISDIR(status.st_mode):
            here = (status.st_dev, status.st_ino)
            if here in above:
                raise InvalidSpec(
                    f"task module {module}: {path} is a symbolic link to a folder that it is in; remove it"
                )
            self._folders[path] = status.st_mtime_ns
            for name in os.listdir(path):
                if not _stays_behind(name):
                    self.add(module, os.path.join(path, name), (*above, here))

    def add_siblings(self, module: str, top: str) -> None:
        """Add what the code imports, directly or not, from the folder that it is in. `top`: its own name."""
        suffixes = ((ExtensionFileLoader, EXTENSION_SUFFIXES), (SourceFileLoader, SOURCE_SUFFIXES))
        # Of our own, because the import system's remembers a folder for as long as the clock's resolution lets it.
        finder = FileFinder(self._folder, *suffixes)
        self._beside = set(os.listdir(self._folder))
        read: set[str] = set()
        while files := [path for path in self.files if path.endswith(".py") and path not in read]:
            read.update(files)
            names = set[str]().union(*map(_imports, files)) - self._imported - {top}
            self._imported |= names
            for name in names:
                if path := _sibling(finder, name):
                    self.add(module, path)
        self._beside = {entry for entry in self._beside if entry.partition(".")[0] in self._imported}

    def _list_beside(self) -> set[str]:
        if not self._imported:
            return set()
        return {entry for entry in os.listdir(self._folder) if entry.partition(".")[0] in self._imported}

    def _check_link(self, module: str, path: str) -> None:
        target = os.path.realpath(path)
        if not os.path.exists(target):
            raise InvalidSpec(f"task module {module}: {path} is a symbolic link to {target}, which does not exist")
        if os.path.commonpath([target, self._real]) != self._real:
            raise InvalidSpec(
                f"task module {module}: {path} is a symbolic link to {target}, outside of {self._folder}; what is "
                f"outside does not ship. Copy it, or {_INSTEAD}"
            )


def _is_installed(folder: str) -> bool:
    return os.path.realpath(folder) in _INSTALLED or os.path.basename(folder) in {"site-packages", "dist-packages"}


def _stays_behind(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__" or name.endswith((".pyc", ".pyo"))


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mtime_ns, status.st_size, status.st_ino


def _imports(path: str) -> set[str]:
    """Top-level names in the import statements of a file, those inside functions too."""
    try:
        with open(path, "rb") as source:
            tree = ast.parse(source.read(), path)
    except (SyntaxError, ValueError, FileNotFoundError):
        return set()  # a template, or Python of another version: nothing that runs here imports it
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def _sibling(finder: FileFinder, name: str) -> str | None:
    """The file or folder that ``import name`` means, where that is in the finder's folder."""
    spec = finder.find_spec(name)
    if spec is None or name in sys.builtin_module_names:
        return None
    locations = spec.submodule_search_locations
    path = locations[0] if locations else spec.origin
    loaded = getattr(sys.modules.get(name), "__file__", None)
    if path is None or (loaded and not os.path.realpath(loaded).startswith(os.path.realpath(path))):
        return None
    if spec.loader is None:
        # A folder without __init__.py: any module or package of that name, anywhere, comes before it.
        elsewhere = PathFinder.find_spec(name)
        if elsewhere is not None and elsewhere.loader is not None:
            return None
    return path
