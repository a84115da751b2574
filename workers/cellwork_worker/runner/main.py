"""The program: prepare, read the task, call its body, send the outcome, leave."""

import _signal as signal  # the signal module makes enums of its names, and needs the enum module for that
import importlib
import os
import stat
import sys
import time

from . import archive, body, codec, output, standins, text, usage
from . import task as task_
from .wire import NO_TASK, READY, Wire, read_payload

#: Exit status where standard input ended before the payload had arrived: the worker has died, or its way to here is
#: broken, and no body ran.
NO_PAYLOAD = 75

#: Seconds without a byte of the payload after which it is given up, in a sandbox that was started for its task: it was
#: on its way when an engine with live-restore restarted, which leaves standard input open for ever.
PATIENCE = 60

#: What ends a runner that has not got its task yet: its own alarm, and its worker's question, once their connection has
#: broken. Nothing else minds the second one.
_GIVE_UP = (signal.SIGALRM, signal.SIGURG)

#: Seconds that the runner waits for its worker to take the outcome. An engine that restarts reads on what a running
#: container prints; what one printed that ended meanwhile is lost.
LINGER = 60


class Terminated(BaseException):
    """SIGTERM: the body's ``finally`` blocks run, then the sandbox ends without an outcome."""


def _on_term(number, frame):
    raise Terminated


def main():
    # As process 1, a signal without a handler is ignored.
    signal.signal(signal.SIGTERM, _on_term)
    for number in _GIVE_UP:
        signal.signal(number, lambda number, frame: _end_without_task())
    warm = sys.argv[1:] == ["warm"]
    del sys.argv[1:]
    try:
        ahead = read_payload(0, PATIENCE)
        failed = _prepare(*ahead, warm) if ahead else None
        if warm:
            _flush()
            os.write(1, READY)
        payload = read_payload(0, 0 if warm else PATIENCE)
        if payload is None:
            _end_without_task()
        for number in _GIVE_UP:
            signal.signal(number, signal.SIG_DFL)
        _run(payload[0], failed)
    except Terminated:
        _flush()
        os._exit(128 + signal.SIGTERM)


def _end_without_task():
    _flush()
    try:
        os.write(1, NO_TASK)
    except OSError:
        pass  # nobody listens; the status says it as well
    os._exit(NO_PAYLOAD)


def _prepare(header, bundle, warm):
    """What needs no task yet; where that is far, more. Returns the error that the task is to end with, if any."""
    try:
        output.install()
        standins.install()
        if header["code"] == "ship":
            root = archive.unpack(bundle)
            sys.path.insert(0, root)
            if warm:
                archive.compile_ahead(root)
        for name in header["preload"]:
            importlib.import_module(name)
    except Terminated:
        raise
    except BaseException as error:
        return error
    return None


def _run(header, failed):
    feed = _take_input()
    wire = Wire(header["nonce"])
    started = time.time()
    outcome = body.failure(failed) if failed else _outcome(header, wire)
    _flush()
    wire.send("usage", text.dumps(usage.measure(time.time() - started)))
    wire.send("end", "null", stream=2)
    wire.last("outcome", outcome)
    _linger(feed)
    # Not sys.exit: threads that the body left running must not keep the sandbox.
    os._exit(0)


def _take_input():
    """A file descriptor of the payload's stream. The body's standard input is empty."""
    feed = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return feed


def _linger(feed):
    """Where a pipe brought the payload, and is still open: until it ends."""
    signal.signal(signal.SIGALRM, lambda number, frame: os._exit(0))
    signal.alarm(LINGER)
    try:
        while stat.S_ISFIFO(os.fstat(feed).st_mode) and os.read(feed, 1):
            pass
    except OSError:
        pass  # the body has closed it


def _outcome(header, wire):
    try:
        args, kwargs = codec.decode(header["args"]), codec.decode(header["kwargs"])

        def send_state(state, meta):
            wire.send("state", '{"state": %s, "meta": %s}' % (text.dumps(state), codec.encode(meta)))

        running = task_.Running(header, args, kwargs, send_state)
        os.environ.update(header.pop("secrets", {}))
        if header.get("traceparent"):
            os.environ.setdefault("TRACEPARENT", header["traceparent"])
        call = body.find(header["target"], header["task"]["name"], running)
        task_.Current.running = running
        value = _limited(header.get("soft_time_limit"), call, args, kwargs)
    except Terminated:
        raise
    except BaseException as error:
        return body.failure(error)
    return body.success(value, header["result_max_bytes"])


def _limited(seconds, call, args, kwargs):
    """Call the body; after so many seconds SoftTimeLimitExceeded is raised in it."""
    if not seconds:
        return call(*args, **kwargs)

    def on_alarm(number, frame):
        # The class that the body's own `except` names: the real one where Celery is installed.
        raise getattr(sys.modules.get("celery.exceptions"), "SoftTimeLimitExceeded", standins.SoftTimeLimitExceeded)(
            seconds
        )

    signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return call(*args, **kwargs)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _flush():
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # the body closed or replaced it; what it held back is its own loss
