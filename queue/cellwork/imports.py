"""``with image_imports():`` lets a module name libraries that are not installed everywhere.

Also part of the runner, where it serves tasks of one module that run in different images: Python 3.8 or newer, and as
few imports as can be, because every sandbox pays for them (importlib.abc alone takes 11 ms, typing 2 ms).
"""

from __future__ import annotations

import importlib.machinery
import sys
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from types import FrameType
    from typing import Any

#: Modules whose frames stand between an import statement and a finder.
_MACHINERY = frozenset({"importlib", "_frozen_importlib", "_frozen_importlib_external"})


class Placeholder(ModuleType):
    """Stands for a module of the image, or for anything in it, where the library is not installed.

    It can be named (annotations, base classes, ``except``); it cannot be called.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return Placeholder(f"{self.__name__}.{name}")

    def __call__(self, *args: object, **kwargs: object) -> Any:
        top = self.__name__.partition(".")[0]
        raise ImportError(
            f"{self.__name__}: {top} is not installed here; use it in the body of a task whose image has it", name=top
        )

    def __getitem__(self, item: object) -> Placeholder:
        return self

    def __or__(self, other: object) -> Any:
        return self

    __ror__ = __or__

    def __mro_entries__(self, bases: tuple[object, ...]) -> tuple[type, ...]:
        return (Exception,) if self.__name__.endswith(("Error", "Exception", "Warning")) else (object,)

    def __repr__(self) -> str:
        return f"<{self.__name__}, not installed here>"


class _Finder:
    """Last on sys.meta_path: asked only for what nobody else finds.

    Answers the imports that are written in the block, not those of the libraries that it imports: these look for
    optional libraries of their own, and must be told the truth.
    """

    def __init__(self, namespace: dict[str, Any]) -> None:
        self._namespace = namespace
        self.made: list[str] = []

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        top = fullname.partition(".")[0]
        installed = top in sys.modules and not isinstance(sys.modules[top], Placeholder)
        if installed or not self._asked_by_block():
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)  # type: ignore[arg-type]

    def _asked_by_block(self) -> bool:
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _MACHINERY:
            frame = frame.f_back
        return frame is not None and frame.f_globals is self._namespace

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        self.made.append(spec.name)
        return Placeholder(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        return None


class _Block:
    """What ``with`` enters."""

    def __enter__(self) -> None:
        self._finder = _Finder(sys._getframe(1).f_globals)
        # The protocol of finders and loaders is duck-typed; their abstract classes are what is slow to import.
        sys.meta_path.append(self._finder)

    def __exit__(self, *_: object) -> None:
        sys.meta_path.remove(self._finder)
        for name in self._finder.made:
            # So that "is it installed?" is answered truly everywhere else.
            sys.modules.pop(name, None)


def image_imports() -> AbstractContextManager[None]:
    """Inside the block, a library that is not installed here is replaced by a placeholder.

    A library that is installed is imported as ever, and its own errors are raised. Only the imports that are written
    in the block's own module are affected. It works the same in the worker and in a sandbox, so that one module can
    hold tasks of several images.
    """
    return _Block()
