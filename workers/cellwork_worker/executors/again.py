"""When a removal that nobody answered is tried again: its worker lives on, so no reaper will look at it."""

#: Tries, and seconds before the second; doubled for each further one. All together some ten minutes: as long as the
#: upgrade of an engine, or of a cluster's only control plane, may take.
_TRIES, _PAUSE, _LONGEST_PAUSE = 12, 5.0, 60.0


def pause(tries: int) -> float | None:
    """Seconds, after so many tries. None: there is no further one."""
    return min(_LONGEST_PAUSE, _PAUSE * 2 ** (tries - 1)) if tries < _TRIES else None
