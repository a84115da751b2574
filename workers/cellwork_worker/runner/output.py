"""What the body prints: shown at once and in its order; `logging` with level and logger, on standard error."""

import importlib.machinery
import sys


def install():
    """Set both up, before the task's module is imported."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)
    if "logging" in sys.modules:
        _show(sys.modules["logging"])
    else:
        # Importing it here would cost each task milliseconds.
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Waits for the import of logging."""

    def find_spec(self, name, path=None, target=None):
        if name != "logging":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            _show(module)

        spec.loader.exec_module = exec_module
        return spec


def _show(logging):
    """Used where no handler is: whatever the body configures itself wins."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.lastResort = handler
    if logging.root.level == logging.WARNING:
        logging.root.setLevel(logging.INFO)
