"""One watch for all pods, and what breaks it."""

import threading

import msgspec
from podruns import Running, launch
from waiting import wait_until


def test_a_watch_that_is_too_old_begins_anew(start, server):
    run = start("echo ready; sleep 2")
    run.wait_output(b"ready")
    lists = server.requests["GET pods"]
    server.stop()
    server.store.compact()
    server.restart()
    assert run.exit().code == 0
    assert server.requests["GET pods"] > lists


def test_a_list_from_an_old_cache_does_not_end_a_task(start, server):
    run = start("echo ready; sleep 2; echo last")
    run.wait_output(b"ready")
    server.inject(method="GET", path="/pods?labelSelector", stale=[])
    server.store.compact()
    server.drop()
    assert run.exit().code == 0
    assert run.output.endswith(b"last\n")


def test_a_pod_costs_four_requests_and_all_share_one_watch(make_executor, server):
    executor = make_executor()
    Running(executor, launch("true")).exit()
    executor._remover.wait()
    server.requests.clear()
    for run in [Running(executor, launch("cat", b"payload")) for _ in range(4)]:
        assert run.exit().code == 0
    executor._remover.wait()
    assert server.requests["POST pods"] == server.requests["POST secrets"] == server.requests["GET log"] == 4
    assert server.requests["DELETE one"] <= 4
    for what in ("GET pods", "GET watch", "GET events", "GET watch events"):
        assert server.requests[what] <= 1
    # One every 15 seconds, however many pods there are.
    del server.requests["GET metrics"]
    assert sum(server.requests.values()) <= 4 * 5


def test_output_is_whole_and_once_although_every_connection_breaks(start, server):
    run = start("for i in 1 2 3 4 5 6; do echo line $i; sleep 0.5; done")
    for number in (2, 4):
        run.wait_output(b"line %d\n" % number)
        server.drop()
    assert run.exit().code == 0
    assert run.output.decode().splitlines() == [f"line {n}" for n in range(1, 7)]


def test_a_server_that_restarts_costs_no_task(start, server):
    run = start("echo first; sleep 2; echo last")
    run.wait_output(b"first")
    server.stop()
    threading.Event().wait(1.0)
    server.restart()
    assert run.exit().code == 0
    assert run.output == b"first\nlast\n"


def test_a_watch_that_breaks_off_goes_on_from_where_it_was(start, server):
    run = start("echo ready; sleep 2; echo last")
    run.wait_output(b"ready")
    lists, watches = server.requests["GET pods"], server.requests["GET watch"]
    server.drop()
    wait_until(lambda: server.requests["GET watch"] > watches, what="the next watch")
    assert run.exit().code == 0
    assert server.requests["GET pods"] == lists


def test_a_quiet_watch_learns_from_bookmarks_from_where_to_go_on(start, server):
    run = start("echo ready; sleep 4")
    run.wait_output(b"ready")
    lists, watches = server.requests["GET pods"], server.requests["GET watch"]
    # What happens in other namespaces makes versions old that a quiet namespace was last told of.
    server.store.create("secrets", "elsewhere", {"metadata": {"name": "other"}})
    server.store.remove("secrets", "elsewhere", "other")
    _, version = server.store.listed("pods", "elsewhere")
    wait_until(lambda: server.bookmarks[str(version)] > 1, what="a bookmark to have come")
    server.store.forget()
    server.drop()
    wait_until(lambda: server.requests["GET watch"] > watches, what="the next watch")
    assert run.exit().code == 0
    assert server.requests["GET pods"] == lists


def test_a_pod_that_is_being_deleted_is_waited_for_and_not_taken_for_the_new_one_of_its_name(make_executor, server):
    """An earlier delivery's: all that happens to it is told to the one that waits for its name."""
    one = launch("trap 'sleep 2; echo old; exit 9' TERM; echo ready; while :; do sleep 0.1; done")
    first = Running(make_executor("gone"), one)
    first.wait_output(b"ready")
    executor = make_executor()
    other = Running(executor, launch("echo ready; sleep 6"))
    other.wait_output(b"ready")  # so that its watch is there
    executor._api.delete_pod(executor.namespace, one.id, grace=20)
    second = Running(executor, msgspec.structs.replace(one, argv=("sh", "-c", "sleep 1; echo new")))
    ended = second.exit()
    assert (ended.code, second.output, ended.adopted) == (0, b"new\n", False)
    assert (first.exit().killed, first.output) == (True, b"ready\nold\n")
    assert other.exit().code == 0
