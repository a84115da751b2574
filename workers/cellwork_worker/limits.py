"""Which time limit holds for a run: the message's, the declaration's, or the one that somebody set meanwhile. Pure."""


def limit(said: float | None, declared: float | None, now: float | None) -> float | None:
    """Seconds; None: no limit.

    A producer writes the declared limit into every message, so one that ``control.time_limit`` (Flower's button) has
    set for the task replaces that, but not one that a call said for itself.

    Args:
        said: by the message.
        declared: by the task, when the worker began.
        now: by the task.
    """
    changed = now is not None and now != declared
    return now if said is None or (changed and said == declared) else said
