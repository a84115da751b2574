"""What a message says about its share of the queue."""

from cellwork import fairness
from cellwork.fairness import Share
from cellwork.spec import ContainerSpec


def share(cap: int | None = None, **options) -> Share | None:
    return fairness.share("shop.x", ContainerSpec(**options), "here", cap)


def test_only_who_asks_for_a_share_has_one():
    assert share() is None
    assert share(cap=3) is None
    assert share(fair_key="a") == Share('["a", null]')
    assert share(cap=3, fair_key="a") == Share('["a", null]', (("here:key:a", 3),))
    assert share(max_running=2) == Share('[null, "shop.x"]', (("here:task:shop.x", 2),))
    both = share(cap=3, fair_key="a", max_running=2)
    assert both == Share('["a", "shop.x"]', (("here:key:a", 3), ("here:task:shop.x", 2)))


def test_what_is_no_share_is_a_message_like_any_other():
    for header in (
        {},
        {"share": None},
        {"share": {"group": 7}},
        {"share": {"group": "\ud800"}},
        {"share": {"group": "\n"}},
    ):
        assert fairness.of({"headers": {"cellwork": header}}) is None
    for message in ({}, {"headers": None}, {"headers": {"cellwork": 7}}):
        assert fairness.of(message) is None


def test_a_placeholder_is_told_from_a_message_and_says_when_it_came():
    message = {"headers": {"cellwork": {"share": {"group": "g", "caps": []}, "sent": 12.5}}, "body": "b"}
    assert fairness.placeholder(message) == '{"cellwork-fair": 1, "headers": {"cellwork": {"sent": 12.5}}}'
    assert fairness.placeholder(message).startswith(fairness.MARKER)
    caps, _, rest = fairness.entry(Share("g", (("k", 1),)), message).partition("\n")
    assert (caps, rest.startswith(fairness.MARKER)) == ('[["k", 1]]', False)
