"""What a task may spend on failures that are not its own."""

from cellwork.errors import EngineUnavailable, SandboxLost
from cellwork.settings import Settings
from cellwork_worker.budget import Budget

LOST, AWAY = SandboxLost("gone"), EngineUnavailable("no answer")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def budget(clock: Clock, **settings: float) -> Budget:
    return Budget(Settings(infra_backoff=1.0, **settings), clock)


def test_a_lost_sandbox_is_replaced_so_often_and_ever_later():
    one = budget(Clock(), infra_retries=3)
    pauses = [one.pause(LOST) for _ in range(4)]
    assert pauses[3] is None
    for number, pause in enumerate(pauses[:3]):
        assert 0.5 * 2**number <= pause <= 2**number


def test_an_engine_that_is_away_is_asked_for_as_long_as_patience_lasts_and_every_few_seconds():
    clock = Clock()
    one = budget(clock, engine_patience=60.0, infra_retries=0)
    tries = 0
    while (pause := one.pause(AWAY)) is not None:
        assert 0.5 <= pause <= 5.0
        clock.now += pause
        tries += 1
    assert 60 <= clock.now < 65
    assert tries >= 12


def test_an_engine_that_ran_the_sandbox_is_away_anew_when_it_goes_again():
    clock = Clock()
    one = budget(clock, engine_patience=10.0)
    one.pause(AWAY)
    clock.now = 3600.0
    one.ran()
    assert one.pause(AWAY) is not None
    clock.now += 11
    assert one.pause(AWAY) is None


def test_sandboxes_that_are_lost_take_nothing_of_the_patience_with_an_engine():
    one = budget(Clock(), infra_retries=1)
    assert one.pause(LOST) is not None
    assert one.pause(AWAY) is not None
    assert one.pause(LOST) is None
