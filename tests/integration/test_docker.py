"""What only the Docker executor has: adoption, network namespaces that are reused, images that are not there."""

import json
import threading
import time

import msgspec
import pytest
from chaos.way import EngineWay
from dockerruns import BUSYBOX, Output
from waiting import wait_until

from cellwork.errors import ImageUnavailable, InvalidSpec, SandboxLost
from cellwork_worker.executors.docker import DockerExecutor
from cellwork_worker.executors.docker.container import container_config


def test_a_running_sandbox_that_already_has_this_name_is_adopted_with_all_its_output(make_executor, launch, engine):
    one = launch("echo first; sleep 2; echo last; exit 4")
    # What a worker that was killed leaves behind.
    engine.api.create_container_from_config(container_config(one, 1 << 20), one.id)
    engine.api.start(one.id)
    wait_until(lambda: engine.api.logs(one.id) == b"first\n", what="the first line")
    seen = Output()
    exit_ = make_executor("two").run(launch("echo again", name=one.id, worker="two"), seen)
    assert seen.text == b"first\nlast\n"
    assert (exit_.adopted, exit_.code) == (True, 4)


def test_an_adopted_sandbox_gives_its_last_output_though_the_engine_ends_its_log_too_early(
    make_executor, launch, engine
):
    one = launch("mkfifo /tmp/go; echo first; cat /tmp/go; head -c 1000000 /dev/zero; printf last")
    engine.api.create_container_from_config(container_config(one, 10 << 20), one.id)
    engine.api.start(one.id)
    wait_until(lambda: engine.api.logs(one.id) == b"first\n", what="the first line")
    seen = Output()
    ended = threading.Thread(target=make_executor("two").run, args=(one, seen))
    ended.start()
    assert seen.started.wait(10)
    engine.containers.get(one.id).exec_run(["sh", "-c", "echo >/tmp/go"])
    ended.join(30)
    # Seven of eight times the followed log alone lacks the end.
    assert seen.text.count(0) == 1_000_000
    assert seen.text.endswith(b"last")


def test_output_is_whole_and_once_although_every_connection_to_the_engine_breaks(launch, tmp_path, installation):
    way = EngineWay(tmp_path)
    executor = DockerExecutor(installation=installation, worker="one", base_url=way.url)
    seen, ended = Output(), []
    one = launch("for i in 1 2 3 4 5 6; do echo line $i; sleep 0.4; done; exit 4")
    thread = threading.Thread(target=lambda: ended.append(executor.run(one, seen)))
    thread.start()
    for number in (2, 4):
        wait_until(lambda n=number: b"line %d\n" % n in seen.text, timeout=20, what="a line")
        # The second time, whatever is asked because of the first breaks as well.
        way.cut()
        wait_until(way.cut, what="a new connection")
    thread.join(30)
    assert seen.text.decode().splitlines() == [f"line {n}" for n in range(1, 7)]
    assert ended[0].code == 4
    executor.sweep(frozenset())
    way.close()


def test_a_sandbox_that_has_ended_with_its_output_unread_is_adopted(make_executor, launch, engine):
    one = launch("echo all of it; exit 3")
    engine.api.create_container_from_config(container_config(one, 1 << 20), one.id)
    engine.api.start(one.id)
    engine.api.wait(one.id)
    seen = Output()
    exit_ = make_executor("two").run(one, seen)
    assert seen.text == b"all of it\n"
    assert (exit_.adopted, exit_.code) == (True, 3)


def test_a_container_that_was_created_but_never_started_is_made_anew(make_executor, launch, engine):
    one = launch("echo ran")
    engine.api.create_container(BUSYBOX, name=one.id, labels=one.labels)
    seen = Output()
    assert make_executor("one").run(one, seen).adopted is False
    assert seen.text == b"ran\n"


def test_sandboxes_at_the_same_time_never_share_a_network_namespace(make_executor, launch):
    executor = make_executor("one")
    outputs = [Output() for _ in range(4)]
    script = "readlink /proc/self/ns/net; sleep 1"
    threads = [threading.Thread(target=executor.run, args=(launch(script), output)) for output in outputs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({output.text for output in outputs}) == 4


def test_a_namespace_is_reused_empty_and_a_fresh_one_is_there_for_the_asking(make_executor, launch):
    executor = make_executor("one")
    namespaces = []
    leaves = "readlink /proc/self/ns/net; nc -l -p 4444 & nc -l -p 4445 -s 127.0.0.1 & sleep 0.2"
    looks = "readlink /proc/self/ns/net; cat /proc/net/tcp /proc/net/unix | grep -v -e sl -e Num | wc -l"
    for script, options in ((leaves, {}), (looks, {}), (looks, {"fresh_network": True})):
        seen = Output()
        executor.run(launch(script, **options), seen)
        # Its namespace is free once it is gone.
        executor._containers.remover.wait()
        namespaces.append(seen.text.decode().split())
    assert namespaces[1] == [namespaces[0][0], "0"], "the same namespace, with nothing left in it"
    assert namespaces[2][0] != namespaces[0][0]


def test_a_holder_that_was_killed_is_replaced_unseen(make_executor, launch, engine, installation):
    executor = make_executor("one")
    executor.run(launch("true"), Output())
    executor._containers.remover.wait()
    filters = {"label": ["cellwork.holder=1", f"cellwork.installation={installation}", "cellwork.worker=one"]}
    for holder in engine.api.containers(filters=filters):
        engine.api.kill(holder["Id"])
    seen = Output()
    assert executor.run(launch("echo ran"), seen).code == 0
    assert seen.text == b"ran\n"


def test_an_image_that_is_not_there_is_named_with_what_to_do(make_executor, launch):
    executor = make_executor("one")
    with pytest.raises(ImageUnavailable, match="image cellwork/nowhere:1 is not on the engine"):
        executor.run(launch("true", image="cellwork/nowhere:1"), Output())
    with pytest.raises(ImageUnavailable, match=r"cannot pull image localhost:1/nowhere:1.*docker load"):
        executor.run(launch("true", image="localhost:1/nowhere:1", pull="missing"), Output())


def test_a_program_that_is_not_in_the_image_is_named(make_executor, launch):
    missing = msgspec.structs.replace(launch(""), argv=("no-such-program",))
    with pytest.raises(InvalidSpec, match="no-such-program"):
        make_executor("one").run(missing, Output())


def test_a_sandbox_that_is_removed_from_outside_is_lost(make_executor, launch, engine):
    executor, one, seen = make_executor("one"), launch("sleep 60"), Output()
    failure: list[BaseException] = []

    def run() -> None:
        try:
            failure.append(SandboxLost(str(executor.run(one, seen).killed)))
        except SandboxLost as error:
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert seen.started.wait(20)
    engine.api.remove_container(one.id, force=True)
    thread.join(20)
    assert failure, "it came back"


def test_a_sandbox_that_is_killed_from_outside_is_replaced_on_a_budget_of_its_own(start_worker, shop, engine):
    worker = start_worker("-c", "1", "-Q", "killed", CELLWORK_INFRA_RETRIES="1")

    def kill(result, start: str) -> None:
        name = f"cellwork-{result.id}-0{start}"
        found = {"name": f"^/{name}$", "status": "running"}
        wait_until(lambda: engine.api.containers(filters=found), timeout=30, what=f"{name} to run")
        engine.api.kill(name)

    once = shop.commands.script.apply_async(("sleep 3; echo after all",), queue="killed")
    kill(once, "")
    assert once.get(timeout=60) == "after all\n"
    assert once.retries in (None, 0)
    assert f"sandbox cellwork-{once.id}-0 (image {BUSYBOX}) was killed from outside" in worker.text
    twice = shop.commands.script.apply_async(("sleep 60",), queue="killed")
    kill(twice, "")
    kill(twice, "-1")
    with pytest.raises(SandboxLost, match=r"was killed from outside, not by this worker.*docker events"):
        twice.get(timeout=60)
    worker.stop()


def test_stopping_an_engine_that_does_not_answer_gives_the_sandbox_up():
    from cellwork.errors import EngineUnavailable

    executor = DockerExecutor(installation="x", worker="x", base_url="unix:///nowhere.sock")
    began = time.monotonic()
    with pytest.raises(EngineUnavailable, match=r"no Docker engine answers at .*nowhere\.sock"):
        executor.stop("cellwork-x", 9)
    assert executor.check().ok is False
    assert time.monotonic() - began < 20


def test_a_seccomp_profile_of_the_policy_is_in_force_for_the_tasks_that_name_it(start_worker, shop, tmp_path):
    """And the defaults of a queue are its tasks' only."""
    refuses = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
    }
    (tmp_path / "seccomp.json").write_text(json.dumps(refuses))
    (tmp_path / "cellwork.toml").write_text(
        f"""
        [cellwork]
        queue_defaults = {{ strict = {{ seccomp = "no-folders", memory = "77m" }} }}
        [cellwork.policy]
        seccomp = {{ no-folders = "{tmp_path}/seccomp.json" }}
        """
    )
    worker = start_worker("-c", "1", "-Q", "strict,lax", CELLWORK_CONFIG=str(tmp_path / "cellwork.toml"))
    with pytest.raises(PermissionError):
        shop.tasks.traces.apply_async(queue="strict").get(timeout=60)
    assert shop.tasks.traces.apply_async(queue="lax").get(timeout=60) == []
    worker.stop()


def test_a_body_does_not_begin_where_its_worker_may_not_any_more(make_executor, launch, engine, tmp_path):
    class Ended(BaseException):
        pass

    def refuse() -> None:
        raise Ended

    for payload in (None, b"payload"):
        one, seen = launch("cat; echo it began", worker="late"), Output()
        refused = msgspec.structs.replace(one, payload=payload, confirm=refuse, keep=True)
        with pytest.raises(Ended):
            make_executor("late").run(refused, seen)
        assert seen.text == b""
        names = {"name": one.id}
        wait_until(lambda names=names: not engine.api.containers(all=True, filters=names), what="it to be removed")
