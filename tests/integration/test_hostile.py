"""Hostile tasks: what each could do inside, and that worker, host and neighbours are as before."""

import io
import re
import socket
import tarfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis
from celery.exceptions import TimeLimitExceeded
from hostility import CONTAINED, FAILED, PROPERTY, TRIED
from waiting import wait_until

from cellwork.errors import CellworkError, InvalidResult, NoOutcome, OutOfMemory, RemoteTaskError, ResultTooLarge

TIMEOUT = 110
MIB = 1 << 20

#: What the kernel says where seccomp, a missing capability or a read-only mount stands in the way.
REFUSALS = ("EPERM", "EACCES", "EROFS", "ENOSYS")


@pytest.fixture
def attack(shop, shared_worker):
    return shop.attacks


@pytest.fixture(autouse=True)
def untouched(request, shop, shared_worker, engine, broker, containers) -> Iterator[None]:
    """Worker, engine, broker, a neighbour's sandbox and the host are after the attack what they were before."""
    request.node.user_properties.append((PROPERTY, TRIED))
    process = psutil.Process(shared_worker.process.pid)
    before, folders = process.memory_info().rss, set(Path("/").iterdir())
    neighbour = shop.attacks.returns.delay("a neighbour")
    yield
    assert neighbour.get(timeout=TIMEOUT) == "a neighbour"
    assert shop.attacks.returns.delay("the next").get(timeout=TIMEOUT) == "the next"
    assert process.is_running()
    assert process.status() != psutil.STATUS_ZOMBIE
    assert process.memory_info().rss - before < 40 * MIB
    assert engine.ping()
    assert redis.Redis.from_url(f"{broker}/0").ping()
    assert set(Path("/").iterdir()) == folders
    assert not Path("/tmp/pwned").exists()
    wait_until(lambda: not containers(), timeout=30, what="its container to be gone")
    if not request.node.stash.get(FAILED, False):
        request.node.user_properties.append((PROPERTY, CONTAINED))


def outcome_of(result) -> object:
    """What it returned, or the error that it ended with."""
    return result.get(timeout=TIMEOUT, propagate=False)


# Resources


@pytest.mark.parametrize("name", ["forks_without_end", "starts_threads_without_end", "leaves_zombies"])
def test_processes_and_threads_end_at_the_limit_of_the_sandbox(attack, name):
    found = getattr(attack, name).apply_async(pids=64).get(timeout=TIMEOUT)
    count = found[0] if isinstance(found, list) else found
    assert 10 < count < 64


def test_a_memory_bomb_ends_itself_only(hostile):
    assert isinstance(outcome_of(hostile.eats_memory.apply_async(memory="64m")), OutOfMemory)


@pytest.mark.parametrize(("folder", "size"), [("/tmp", 8), ("/dev/shm", 4)])
def test_a_writable_folder_is_full_at_its_size(attack, folder, size):
    options = {"tmpfs": {"/tmp": "8m"}, "shm_size": "4m"}
    written, why = attack.fills.apply_async((folder,), **options).get(timeout=TIMEOUT)
    # The task's own code takes a little of /tmp.
    assert ((size - 1) * MIB < written <= size * MIB, why) == (True, "ENOSPC")


@pytest.mark.parametrize("folder", ["/", "/var/tmp", "/run", "/home", "/dev", "/sys/fs/cgroup"])
def test_no_other_folder_can_be_filled(attack, folder):
    # To root, /dev is one more folder in the sandbox's memory, of 64 MiB.
    user = "65534:65534" if folder == "/dev" else "0:0"
    written, why = attack.fills.apply_async((folder,), user=user).get(timeout=TIMEOUT)
    assert written == 0
    assert why in (*REFUSALS, "ENOENT")


def test_open_files_end_at_the_limit(attack):
    count, why = attack.opens_without_end.delay().get(timeout=TIMEOUT)
    assert (count <= 1024, why) == (True, "EMFILE")


def test_a_flood_of_output_ends_with_its_time_limit(attack, tasks):
    result = attack.floods_for_ever.apply_async(time_limit=5)
    assert isinstance(outcome_of(result), TimeLimitExceeded)
    assert tasks.echo.delay("still here").get(timeout=TIMEOUT) == "still here"


def test_many_processes_get_no_more_than_the_cap(attack):
    used = attack.spins.apply_async((4, 2.0), cpus=0.5).get(timeout=TIMEOUT)
    assert used < 0.5 * 2.0 * 1.4


def test_a_spin_that_ignores_all_signals_ends_with_its_time_limit(attack):
    began = time.monotonic()
    result = attack.spins_for_ever.apply_async(time_limit=2, soft_time_limit=1)
    assert isinstance(outcome_of(result), TimeLimitExceeded)
    assert time.monotonic() - began < 30


def test_one_that_stops_itself_ends_with_its_time_limit(attack):
    assert isinstance(outcome_of(attack.stops_itself.apply_async(time_limit=2)), TimeLimitExceeded)


def test_a_daemon_that_it_leaves_ends_with_it(attack):
    marker = uuid.uuid4().hex
    assert attack.leaves_a_daemon.delay(marker).get(timeout=TIMEOUT) == "gone"
    wait_until(lambda: not named(marker), timeout=30, what="the daemon to be gone from the host")


def named(marker: str) -> list[int]:
    return [p.pid for p in psutil.process_iter(["cmdline"]) if marker in " ".join(p.info["cmdline"] or ())]


def test_limits_cannot_be_raised(attack):
    found = attack.raises_its_limits.delay().get(timeout=TIMEOUT)
    assert (found["files"], found["core"]) == ("refused", "refused")
    assert found["nice"] in REFUSALS


# Reach


def test_raw_sockets_are_refused(attack):
    found = attack.opens_sockets.apply_async(network="bridge", user="0:0").get(timeout=TIMEOUT)
    assert found["raw"] in REFUSALS
    assert found["packet"] in REFUSALS
    assert found["vsock"] != "allowed"


def test_there_is_no_network_by_default(attack, broker, gateway):
    port = int(broker.rpartition(":")[2])
    places = [("127.0.0.1", port), (gateway, port), ("169.254.169.254", 80), ("1.1.1.1", 53)]
    refused = attack.connects.delay(places).get(timeout=TIMEOUT)
    assert all(why in ("ECONNREFUSED", "ENETUNREACH") for why in refused), refused
    assert attack.interfaces.delay().get(timeout=TIMEOUT) == ["lo"]


def test_the_broker_of_the_host_is_out_of_reach_with_a_network_too(attack, broker, gateway):
    port = int(broker.rpartition(":")[2])
    refused = attack.connects.apply_async(([("127.0.0.1", port), (gateway, port)],), network="bridge")
    assert "allowed" not in refused.get(timeout=TIMEOUT)


def test_a_neighbours_listener_is_out_of_reach(attack, hostile):
    """Two sandboxes at once, neither with a network: 127.0.0.1 is each one's own."""
    marker = uuid.uuid4().hex
    both = [attack.leaves_behind.apply_async((marker,)), attack.finds.delay(marker)]
    assert both[0].get(timeout=TIMEOUT) == "left"
    assert both[1].get(timeout=TIMEOUT) == ["ECONNREFUSED", "ECONNREFUSED", False]


def test_nothing_is_left_for_the_next_one_in_the_same_namespace(attack):
    marker = uuid.uuid4().hex
    for _ in range(4):
        assert attack.leaves_behind.delay(marker).get(timeout=TIMEOUT) == "left"
    for _ in range(4):
        assert attack.finds.delay(marker).get(timeout=TIMEOUT) == ["ECONNREFUSED", "ECONNREFUSED", False]


def test_the_engines_socket_is_not_there(attack):
    assert attack.engine_sockets.delay().get(timeout=TIMEOUT) == []


def test_the_workers_environment_cannot_be_read(attack, shared_worker):
    worker = Path(f"/proc/{shared_worker.process.pid}/environ").read_text()
    assert "CELERY_BROKER_URL" in worker
    found = attack.environments.apply_async(user="0:0").get(timeout=TIMEOUT)
    assert found
    assert not any("CELERY_BROKER_URL" in environ for environ in found)


def test_it_can_kill_only_itself(attack, shared_worker):
    assert outcome_of(attack.kills_everybody.apply_async(user="0:0")) == "killed"
    assert shared_worker.process.poll() is None


# Privileges


def test_it_cannot_become_root_and_has_no_capability(attack):
    found = attack.becomes_root.delay().get(timeout=TIMEOUT)
    assert (found["setuid"], found["setgroups"]) == ("EPERM", "EPERM")
    assert set(found["capabilities"]) == {"0000000000000000"}
    assert (found["no_new_privs"], found["seccomp"]) == ("1", "2")


CALLS = [
    ("mount", ["none", "/tmp", "tmpfs", 0, 0]),
    ("unshare", [0x10000000]),
    ("setns", [0, 0]),
    ("pivot_root", ["/tmp", "/tmp"]),
    ("keyctl", [0, -3, 1]),
    ("add_key", ["user", "x", "y", 1, -3]),
    ("init_module", ["", 0, ""]),
    ("finit_module", [0, "", 0]),
    ("delete_module", ["overlay", 0]),
    ("kexec_load", [0, 0, 0, 0]),
    ("reboot", [0xFEE1DEAD, 672274793, 0x1234567, 0]),
    ("swapon", ["/dev/sda", 0]),
    ("acct", ["/tmp/acct"]),
    ("sethostname", ["pwned", 5]),
    ("settimeofday", [0, 0]),
    ("syslog", [3, 0, 0]),
    ("bpf", [0, 0, 0]),
    ("perf_event_open", [0, 0, -1, -1, 0]),
    ("userfaultfd", [0]),
    ("open_by_handle_at", [-100, 0, 0]),
]


@pytest.mark.parametrize(("name", "arguments"), CALLS, ids=[name for name, _ in CALLS])
def test_a_system_call_that_no_task_needs_is_refused_even_to_root(attack, name, arguments):
    assert attack.calls.apply_async((name, arguments), user="0:0").get(timeout=TIMEOUT) in REFUSALS


def test_the_workers_process_cannot_be_traced(attack, shared_worker):
    attach = attack.calls.apply_async(("ptrace", [16, shared_worker.process.pid, 0, 0]), user="0:0")
    assert attach.get(timeout=TIMEOUT) in ("ESRCH", *REFUSALS)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/usr/bin/env",
        "/proc/sysrq-trigger",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/vm/drop_caches",
        "/sys/kernel/uevent_helper",
        "/sys/fs/cgroup/memory/release_agent",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ],
)
def test_a_file_of_the_system_cannot_be_written_even_by_root(attack, path):
    assert attack.writes.apply_async((path,), user="0:0").get(timeout=TIMEOUT) in (*REFUSALS, "ENOENT")


@pytest.mark.parametrize("path", ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware/acpi/tables/DSDT"])
def test_what_the_kernel_tells_of_the_host_is_masked(attack, path):
    assert attack.reads.apply_async((path,), user="0:0").get(timeout=TIMEOUT) in ("", "ENOENT", "EACCES", "EPERM")


def test_there_are_no_devices_and_none_can_be_made(attack):
    found = attack.makes_devices.apply_async(user="0:0").get(timeout=TIMEOUT)
    assert found["there"] == []
    assert all(why in REFUSALS for why in found["made"])


def test_the_clock_cannot_be_set(attack):
    before = time.time()
    assert attack.changes_the_clock.apply_async(user="0:0").get(timeout=TIMEOUT) in REFUSALS
    assert abs(time.time() - before) < TIMEOUT


def test_another_processs_files_cannot_be_opened(attack):
    files, root, _ = attack.sends_a_descriptor.delay().get(timeout=TIMEOUT)
    assert files in (*REFUSALS, "ENOENT")
    assert root in REFUSALS


def test_a_link_leads_to_a_place_inside(attack, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    assert attack.links_out.delay(str(secret)).get(timeout=TIMEOUT) == "ENOENT"


@pytest.mark.parametrize("name", ["../evil.py", "/tmp/evil.py", "shop/../../evil.py"])
def test_a_bundle_of_code_writes_nothing_outside_of_its_folder(attack, name):
    said, there = attack.unpacks.delay(name).get(timeout=TIMEOUT)
    assert "which is outside of it" in said
    assert there is False


# What comes out


def success(value: str) -> str:
    return f'{{"kind": "outcome", "data": {{"status": "success", "value": {value}}}}}'


FAILURE = (
    '{"kind": "outcome", "data": {"status": "error", "type": "os.system", "text": "x",'
    ' "args": ["touch /tmp/pwned"], "traceback": ""}}'
)

#: With the runner's own nonce, before the runner's outcome. What is no frame is passed over; the first outcome counts.
FRAMES = {
    "a success of its own": ([success('"forged"')], "forged"),
    "a second outcome": ([success("1"), success("2")], 1),
    "a key twice": ([success('{"a": 1, "a": 2}')], "honest"),
    "NaN": ([success("NaN")], "honest"),
    "Infinity": ([success("-Infinity")], "honest"),
    "too deep": ([success("[" * 1500 + "]" * 1500)], "honest"),
    "a huge number": ([success("1" * 4400)], "honest"),
    "an unknown type": ([success('{"__type__": "os.system", "__value__": "touch /tmp/pwned"}')], InvalidResult),
    "a broken date": ([success('{"__type__": "datetime", "__value__": "no"}')], InvalidResult),
    "no text": ([success('"\udcff\udcfe"')], "honest"),
    "no JSON": (['{"kind": "outcome", "data": {'], "honest"),
    "an unknown status": (['{"kind": "outcome", "data": {"status": "root"}}'], InvalidResult),
    "no outcome at all": (['{"kind": "outcome", "data": 7}'], InvalidResult),
    "another's class": ([FAILURE], RemoteTaskError),
    "an unknown kind": (['{"kind": "shutdown", "data": 1}'], "honest"),
    "a list": (["[1, 2]"], "honest"),
    "a kind that is no text": (['{"kind": ["outcome"], "data": 1}', '{"kind": {}, "data": 1}'], "honest"),
    "parts without end": (['{"kind": "outcome", "part": 0, "of": 999999999, "text": "x"}'], "honest"),
    "parts in disorder": (['{"kind": "outcome", "part": 7, "of": 9, "text": "x"}'], InvalidResult),
    "parts that are no numbers": (['{"kind": "outcome", "part": "a", "of": -1, "text": []}'], InvalidResult),
    "a state that is none": (['{"kind": "state", "data": {"state": ["x"], "meta": 1}}'], "honest"),
    "a state of Celery's": (['{"kind": "state", "data": {"state": "SUCCESS", "meta": 1}}'], "honest"),
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_forged_frame_gives_no_more_than_an_error_of_the_task(attack, name):
    frames, expected = FRAMES[name]
    got = outcome_of(attack.writes_frames.delay(frames))
    if isinstance(expected, type):
        assert isinstance(got, expected), got
    else:
        assert got == expected


def test_a_frame_that_is_cut_off_is_no_outcome(attack):
    result = attack.writes_frames_and_ends.delay([success('"cut"')[:40]], cut=True)
    assert isinstance(outcome_of(result), (NoOutcome, InvalidResult))


def test_results_that_are_too_large_or_no_json_are_refused(attack, hostile):
    assert isinstance(outcome_of(hostile.returns_much.delay(9 * MIB)), ResultTooLarge)
    for task in (attack.returns_itself, attack.returns_a_huge_number):
        assert isinstance(outcome_of(task.delay()), (InvalidResult, RemoteTaskError))
    assert isinstance(outcome_of(hostile.returns_deep.delay(3000)), InvalidResult)
    assert isinstance(outcome_of(hostile.returns_nan.delay()), InvalidResult)


def test_odd_text_arrives_as_it_is_and_lies_do_not(attack):
    assert outcome_of(attack.returns_surrogates.delay()) in ("\udcff\x00\x1b[2J", "?\x00\x1b[2J") or isinstance(
        outcome_of(attack.returns_surrogates.delay()), CellworkError
    )
    assert outcome_of(attack.returns_a_liar.delay()) == "x"


@pytest.mark.parametrize("kind", ["class", "args", "repr", "long", "chain", "loop", "reduce"])
def test_an_exception_that_misbehaves_is_still_an_error_of_the_task(attack, kind):
    got = outcome_of(attack.raises.delay(kind))
    assert isinstance(got, Exception)
    assert len(str(got)) < 2 * MIB


def test_an_exit_with_an_object_is_an_error_of_the_task(attack):
    assert isinstance(outcome_of(attack.exits_with_an_object.delay()), Exception)


@pytest.mark.parametrize("name", ["replaces_the_runner", "closes_everything"])
def test_a_body_that_ends_the_runner_gives_no_outcome(attack, name):
    assert isinstance(outcome_of(getattr(attack, name).delay()), CellworkError)


def test_a_line_feed_in_an_environment_variable_makes_no_second_one(attack):
    found = attack.environment.apply_async(env={"ONE": "1\nLD_PRELOAD=/tmp/evil.so"}).get(timeout=TIMEOUT)
    assert found["ONE"] == "1\nLD_PRELOAD=/tmp/evil.so"
    assert "LD_PRELOAD" not in found


def test_what_it_prints_cannot_draw_on_the_terminal_of_who_reads_the_log(attack, hostile, shared_worker):
    marker = uuid.uuid4().hex
    attack.prints.delay(f"\x1b]0;{marker}\x07\x1b[2J\r\nWARNING forged").get(timeout=TIMEOUT)
    wait_until(lambda: marker in shared_worker.text, what="the line to be in the worker's log")
    line = next(line for line in shared_worker.text.splitlines() if marker in line)
    assert "\x1b" not in line
    assert not re.search(r"^WARNING forged", shared_worker.text, re.MULTILINE)


# Images


@pytest.fixture(scope="module")
def evil_image(engine, remove_image) -> Iterator[str]:
    """With an entry point, a health check and volumes of its own."""
    dockerfile = b"""FROM cellwork/python:base
ENV PYTHONSTARTUP=/evil.py
RUN printf '#!/bin/sh\\nwhile :; do echo evil; done\\n' > /evil && chmod 755 /evil
ENTRYPOINT ["/evil"]
HEALTHCHECK --interval=1s CMD /evil
VOLUME ["/data", "/var/tmp"]
"""
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        info = tarfile.TarInfo("Dockerfile")
        info.size = len(dockerfile)
        tar.addfile(info, io.BytesIO(dockerfile))
    context.seek(0)
    tag = f"cellwork-test/evil:{uuid.uuid4().hex[:12]}"
    engine.images.build(fileobj=context, custom_context=True, tag=tag, rm=True)
    yield tag
    remove_image(tag)


def test_an_images_entry_point_and_health_check_do_not_run(attack, evil_image, engine):
    assert attack.returns.apply_async(("mine",), image=evil_image).get(timeout=TIMEOUT) == "mine"


def nameless_volumes(engine) -> set[str]:
    """Those of the engine that no compose project has made meanwhile."""
    found = engine.volumes.list()
    return {volume.name for volume in found if "com.docker.compose.project" not in (volume.attrs["Labels"] or {})}


def test_a_volume_that_an_image_declares_is_no_place_on_the_hosts_disk(attack, evil_image, engine):
    before = nameless_volumes(engine)
    for folder in ("/data", "/var/tmp"):
        found = attack.fills.apply_async((folder,), image=evil_image, memory="256m").get(timeout=TIMEOUT)
        assert found == [64 * MIB, "ENOSPC"]
    assert nameless_volumes(engine) <= before


def test_a_task_that_listens_is_not_reached_from_the_host(attack):
    marker = uuid.uuid4().hex
    result = attack.leaves_behind.delay(marker)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", 7777), timeout=2)
    assert result.get(timeout=TIMEOUT) == "left"
