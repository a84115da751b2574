"""What follows from the setting visibility_timeout, for every process of an app."""

import pytest
from celery import Celery
from kombu import Connection
from kombu.transport import redis as original

from cellwork import configure, transport
from cellwork.errors import InvalidSetting


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv("CELLWORK_VISIBILITY_TIMEOUT", raising=False)


def options(app: Celery) -> dict:
    return app.conf.broker_transport_options


def test_every_process_gets_the_transport_options_of_the_setting():
    app = configure(Celery(set_as_current=False), visibility_timeout=20.0)
    assert options(app)["visibility_timeout"] == 20
    assert options(app)["unacked_restore_interval"] * options(app)["unacked_restore_throttle"] == 2
    assert options(app)["unacked_mutex_expire"] <= 20


def test_the_default_is_a_minute():
    assert options(configure(Celery(set_as_current=False)))["visibility_timeout"] == 60


def test_a_setting_that_comes_later_replaces_ours_and_the_users_own_options_stay():
    app = configure(Celery(set_as_current=False), visibility_timeout=20.0)
    app.conf.broker_transport_options = {**options(app), "global_keyprefix": "mine:"}
    configure(app, visibility_timeout=30.0)
    assert (options(app)["visibility_timeout"], options(app)["global_keyprefix"]) == (30, "mine:")


def test_what_the_user_says_of_the_transport_wins():
    app = Celery(set_as_current=False)
    app.conf.broker_transport_options = {"visibility_timeout": 7, "socket_timeout": 3}
    assert options(configure(app)) | {"socket_timeout": 3, "visibility_timeout": 7} == options(app)


def test_the_environment_says_it_too_and_a_timeout_that_is_too_short_is_refused(monkeypatch):
    monkeypatch.setenv("CELLWORK_VISIBILITY_TIMEOUT", "15")
    assert options(configure(Celery(set_as_current=False)))["visibility_timeout"] == 15
    with pytest.raises(InvalidSetting, match="at least 1 s"):
        configure(Celery(set_as_current=False), visibility_timeout=0.5)


def test_the_transport_takes_and_notes_in_one_step():
    configure(Celery(set_as_current=False))
    for url, kind in (("redis://", transport.Transport), ("rediss://", transport.Transport)):
        assert Connection(url).get_transport_cls() is kind
    assert Connection("sentinel://").get_transport_cls() is transport.SentinelTransport
    # What ours replaces, as it is in kombu 5.7.
    for name in ("_brpop_start", "_brpop_read", "_put", "_do_restore_message", "_q_for_pri", "_flush_brpop_reauth"):
        assert callable(getattr(original.Channel, name))
