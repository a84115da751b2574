"""The producer's side: what is checked where it is written, and what travels in the message."""

import subprocess
import sys
from typing import Any

import pytest
from celery import Celery, chain
from celery.app.task import Task as CeleryTask

from cellwork import command, configure
from cellwork.errors import InvalidArgument, InvalidSetting, InvalidSpec
from cellwork.settings import load


def body(x: object = None) -> object:
    return x


def make(**settings: Any) -> Celery:
    return configure(Celery("unit", broker="memory://", backend="cache+memory://", set_as_current=False), **settings)


@pytest.fixture
def app() -> Celery:
    return make()


def sent(app: Celery, queue: str = "docker") -> dict[str, Any]:
    """The headers of the next message in the queue."""
    with app.connection_for_read() as connection:
        message = connection.SimpleQueue(queue).get(timeout=1)
        message.ack()
        return dict(message.headers)


def test_an_apps_own_settings_win_whether_they_are_made_before_or_after():
    before = configure(Celery("x", broker="redis://mine/3", set_as_current=False, task_default_queue="mine"))
    assert (before.conf.broker_url, before.conf.task_default_queue) == ("redis://mine/3", "mine")
    after = configure(Celery("x", set_as_current=False))
    after.conf.update(task_acks_late=False, worker_prefetch_multiplier=7)
    after.config_from_object({"task_default_queue": "late"})
    assert after.conf.task_default_queue == "late"
    assert after.conf.task_acks_late is False
    assert after.conf.worker_prefetch_multiplier == 7
    assert after.conf.worker_pool == "cellwork_worker.pool:SandboxPool"


def test_what_the_user_does_not_say_is_what_sandboxes_need(app):
    conf = configure(Celery("x", set_as_current=False)).conf
    assert conf.broker_url == "redis://localhost:6379/0"
    assert conf.result_backend == "redis://localhost:6379/1"
    assert conf.task_acks_late is True
    assert conf.worker_prefetch_multiplier == 1
    assert list(conf.accept_content) == ["json"]


def test_configuring_twice_is_configuring_once(app):
    declared = app.task(name="x")(body)
    assert configure(app) is app
    declared.apply_async(memory="1m")
    assert sent(app)["cellwork"]["spec"] == {"memory": 1 << 20}


def test_tasks_that_were_declared_before_are_as_those_that_are_declared_after():
    app = Celery("unit", broker="memory://", backend="cache+memory://", set_as_current=False)
    old = app.Task
    declared = app.task(name="early", memory="3m", rate_limit="5/s")(body)
    plain = app.task(body)
    configure(app)
    assert declared.cellwork_spec.memory == 3 << 20
    assert declared.rate_limit == "5/s"
    assert isinstance(declared, app.Task)
    assert not isinstance(app.tasks[plain.name], (old,))
    declared.apply_async(cpus=2)
    assert sent(app)["cellwork"]["spec"] == {"cpus": 2.0}


def test_a_bad_task_that_was_declared_before_is_refused_by_configure():
    app = Celery("x", set_as_current=False)
    app.task(name="shop.parse", imge="x")(body)
    with pytest.raises(InvalidSpec, match=r"task shop\.parse: unknown option imge='x'; did you mean image"):
        configure(app)


def test_configuring_after_a_task_was_used_is_refused():
    app = Celery("x", set_as_current=False)
    assert app.task(name="shop.parse")(body).name == "shop.parse"
    with pytest.raises(InvalidSetting, match=r"too late: shop\.parse was declared before, and used already"):
        configure(app)


class Base(CeleryTask):
    """A base class of an application that knew nothing of sandboxes."""

    abstract = True
    memory = "7m"
    cpus = 3

    def greeting(self) -> str:
        return "hello"


def test_a_base_class_of_celerys_gives_its_options_and_the_tasks_own_win(app):
    declared = app.task(name="shop.parse", base=Base, cpus=2)(body)
    assert (declared.cellwork_spec.memory, declared.cellwork_spec.cpus) == (7 << 20, 2.0)
    assert declared.greeting() == "hello"
    assert isinstance(declared, Base)
    assert declared.Request == "cellwork_worker.request:Request"


def test_anything_but_json_is_refused(app):
    app.conf.task_serializer = "pickle"
    with pytest.raises(InvalidSetting, match="task_serializer='pickle' is not accepted"):
        app.send_task("x")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"imge": "x"}, "unknown option imge='x'; did you mean image"),
        ({"memory": "12 potatoes"}, "memory='12 potatoes' is not accepted; memory takes a number of bytes"),
        ({"cpus": -1}, "cpus=-1 is not accepted; cpus takes a number of processors greater than 0"),
        ({"cpus": "lots"}, "cpus='lots'"),
        ({"executor": "kubernets"}, "executor='kubernets' is not accepted; executor takes one of docker"),
        ({"env": {"A B": "x"}}, "env="),
        ({"env": {"A": 1}}, "env="),
        ({"image": "no spaces please"}, "image='no spaces please'"),
        ({"pids": 0}, "pids=0"),
        ({"read_only": "yes"}, "read_only='yes' is not accepted; read_only takes True or False"),
        ({"volumes": "data"}, "volumes='data' is not accepted; volumes takes volumes as docker run takes them"),
        ({"volumes": ["/data:data"]}, "volumes="),
        ({"devices": ["fuse"]}, "devices=['fuse'] is not accepted"),
        ({"dns": "nonsense"}, "dns='nonsense' is not accepted; dns takes addresses of name servers"),
        ({"extra_hosts": {"db": "there"}}, "extra_hosts={'db': 'there'} is not accepted"),
        ({"hostname": "bad host!"}, "hostname='bad host!' is not accepted; hostname takes a host name"),
        ({"platform": "linux arm"}, "platform='linux arm' is not accepted"),
        ({"ulimits": {"files": 3}}, "ulimits={'files': 3} is not accepted; ulimits takes a mapping of names (core,"),
        ({"ulimits": {"nofile": (9, 3)}}, "ulimits="),
        ({"workdir": "srv"}, "workdir='srv' is not accepted; workdir takes an absolute path"),
        ({"time_limit": -3}, "time_limit=-3"),
        ({"time_limit": 1, "soft_time_limit": 2}, "soft_time_limit=2 is longer"),
    ],
)
def test_a_bad_declaration_names_task_field_value_and_what_is_accepted(app, options, says):
    with pytest.raises(InvalidSpec) as caught:
        app.task(name="shop.parse", **options)(body)
    assert str(caught.value).startswith("task shop.parse: ")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"memory": "12 potatoes"}, {"memroy": "1m"}, {"cpus": -1}, {"executor": "x"}, {"image": ""}]
)
def test_a_bad_call_is_refused_and_nothing_is_enqueued(app, options):
    declared = app.task(name="shop.parse")(body)
    with pytest.raises(InvalidSpec, match=r"task shop\.parse: "):
        declared.apply_async((1,), **options)
    with pytest.raises(InvalidSpec):
        declared.s(1).set(**options).apply_async()
    with pytest.raises(InvalidSpec):
        app.send_task("shop.parse", (1,), **options)
    with app.connection_for_read() as connection:
        assert connection.SimpleQueue("docker").qsize() == 0


def test_a_body_that_cannot_travel_is_refused_where_it_is_declared(app):
    def nested() -> None: ...

    with pytest.raises(InvalidSpec, match="a function inside a function"):
        app.task(nested)
    with pytest.raises(InvalidSpec, match="is a lambda"):
        app.task(name="x")(lambda: None)
    app.task(name="y", executor="inline")(nested)


def test_a_body_in_main_is_refused_where_it_is_declared():
    program = (
        "from celery import Celery\nfrom cellwork import configure\napp = configure(Celery('x'))\n"
        "@app.task\ndef parse(): ...\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "is in __main__; move it to a module of its own" in ran.stderr


@pytest.mark.parametrize(
    ("args", "kwargs", "path"),
    [
        (({1, 2},), {}, "args[0] is {1, 2}, of type set"),
        (([{"user": object()}],), {}, "args[0][0]['user'] is"),
        ((), {"x": [body]}, "kwargs['x'][0] is"),
    ],
)
def test_an_argument_that_json_cannot_carry_is_named_by_its_path(app, args, kwargs, path):
    with pytest.raises(InvalidArgument) as caught:
        app.task(name="shop.parse")(body).apply_async(args, kwargs)
    assert path in str(caught.value)
    assert "task shop.parse" in str(caught.value)


def test_overrides_travel_in_a_header_and_a_retry_keeps_them(app):
    declared = app.task(name="shop.parse", image="x", memory="1m")(body)
    declared.apply_async((1,), memory="2Gi", env={"A": "b"})
    headers = sent(app)
    assert headers["cellwork"]["spec"] == {"memory": 2 << 30, "env": {"A": "b"}}
    declared.push_request(**{**headers, "delivery_info": {}, "args": (1,), "kwargs": {}, "called_directly": False})
    declared.signature_from_request().set(cpus=2).apply_async()
    assert sent(app)["cellwork"]["spec"] == {"memory": 2 << 30, "env": {"A": "b"}, "cpus": 2.0}


def test_members_of_a_canvas_keep_their_overrides(app):
    declared = app.task(name="shop.parse")(body)
    chain(declared.si(1).set(memory="3m"), declared.si(2).set(memory="4m")).apply_async()
    assert sent(app)["cellwork"]["spec"] == {"memory": 3 << 20}


@pytest.mark.parametrize(
    ("declared", "called", "executor", "queue", "reason"),
    [
        ({}, {}, "docker", "docker", "default"),
        ({"executor": "inline"}, {}, "inline", "docker", "executor='inline' on the task"),
        ({"executor": "inline"}, {"executor": "process"}, "process", "docker", "executor='process' in the call"),
        ({}, {"executor": "kubernetes"}, "kubernetes", "kubernetes", "executor='kubernetes' in the call"),
        ({}, {"queue": "kubernetes"}, "kubernetes", "kubernetes", "queue='kubernetes'"),
        ({"executor": "kubernetes"}, {"queue": "mine"}, "kubernetes", "mine", "executor='kubernetes' on the task"),
    ],
)
def test_the_route_and_its_reason_travel_in_the_header(app, declared, called, executor, queue, reason):
    app.task(name="shop.parse", **declared)(body).apply_async((1,), **called)
    either_way = {"either_way": True} if reason == "default" and queue == "docker" else {}
    assert sent(app, queue)["cellwork"]["route"] == {"executor": executor, "reason": reason, **either_way}


def test_the_apps_own_routes_win():
    app = make()
    app.conf.task_routes = {"shop.*": {"queue": "theirs"}}
    app.task(name="shop.parse", executor="kubernetes")(body).delay(1)
    assert sent(app, "theirs")["cellwork"]["route"]["executor"] == "kubernetes"


def test_the_apps_own_routes_may_name_the_queue_of_pods_or_no_queue_at_all():
    app = make(heavy={"memory": "1g"}, unserved="off")
    app.conf.task_routes = {"shop.*": {"queue": "kubernetes"}, "ml.*": {"priority": 3}}
    app.send_task("shop.parse")
    assert sent(app, "kubernetes")["cellwork"]["route"]["reason"] == "queue='kubernetes'"
    app.send_task("ml.train", memory="2g")
    assert sent(app, "kubernetes")["cellwork"]["route"]["reason"] == "memory 2 GiB > 1 GiB"


def test_a_retry_keeps_its_route_unless_it_says_something_new():
    app = make(heavy={"memory": "1g"}, unserved="off")
    declared = app.task(name="shop.parse", image="x")(body)
    declared.apply_async((1,), executor="process")
    headers = sent(app)
    declared.push_request(**{**headers, "delivery_info": {}, "args": (1,), "kwargs": {}, "called_directly": False})
    declared.signature_from_request().apply_async()
    assert sent(app)["cellwork"]["route"] == {"executor": "process", "reason": "executor='process' in the call, kept"}
    declared.signature_from_request().set(executor="kubernetes").apply_async()
    assert sent(app, "kubernetes")["cellwork"]["route"]["reason"] == "executor='kubernetes' in the call"


def test_a_command_is_a_task_whose_function_is_the_command(app):
    task = command(app, image="busybox", name="shop.wc")(body)
    assert task.cellwork_command is True
    assert task.cellwork_spec.result == "text"
    with pytest.raises(InvalidSpec, match="result='xml'"):
        command(app, image="busybox", name="x", result="xml")(body)  # type: ignore[arg-type]


def test_options_of_a_task_written_as_a_class_are_its_attributes(app):
    class Parse(app.Task):
        name = "shop.parse_as_a_class"
        memory = "5m"

        def run(self) -> None: ...

    assert app.register_task(Parse()).cellwork_spec.memory == 5 << 20


def test_the_base_class_of_an_apps_tasks_may_be_a_name_as_djangos_is():
    django = Celery("django", set_as_current=False, task_cls="celery.contrib.django.task:DjangoTask")
    task = configure(django).task(body, image="i")
    assert callable(task.delay_on_commit)
    assert task.cellwork_spec.image == "i"
    with pytest.raises(InvalidSetting, match="give a class of tasks, or its name"):
        configure(Celery("other", set_as_current=False, task_cls="os:getcwd"))


def test_settings_come_from_file_call_and_environment_and_the_later_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cellwork.toml").write_text("[cellwork]\ninfra_retries = 1\nkill_grace = 1.5\nlog_tail_bytes = 10\n")
    monkeypatch.setenv("CELLWORK_INFRA_RETRIES", "9")
    settings = load(make(kill_grace=2.5, defaults={"memory": "6m"}))
    assert (settings.infra_retries, settings.kill_grace, settings.log_tail_bytes) == (9, 2.5, 10)
    assert settings.defaults.memory == 6 << 20
    assert settings.kube_registries == ()
    monkeypatch.setenv("CELLWORK_KUBE_REGISTRIES", "registry.example:5000, docker.io")
    assert load(make()).kube_registries == ("registry.example:5000", "docker.io")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"exekutor": "x"}, "configure(): unknown setting exekutor='x'"),
        ({"executor": "podman"}, "executor='podman' is not accepted"),
        ({"infra_retries": "many"}, "infra_retries='many'"),
    ],
)
def test_a_wrong_setting_names_where_it_comes_from(given, says):
    with pytest.raises(InvalidSetting) as caught:
        make(**given)
    assert says in str(caught.value)


def test_the_defaults_of_a_queue_are_options_and_checked_as_such():
    settings = load(make(queue_defaults={"gpu": {"memory": "2g"}}))
    assert settings.queue_defaults["gpu"].memory == 2 << 30
    with pytest.raises(InvalidSpec, match=r"queue_defaults\.gpu.*memory='lots'"):
        make(queue_defaults={"gpu": {"memory": "lots"}})
