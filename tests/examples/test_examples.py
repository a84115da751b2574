"""Each example does what its README says, with a real broker, engine and worker."""

import re
import subprocess
import wave
from itertools import pairwise

from playwright.sync_api import expect
from ports import free_port
from waiting import wait_until

INJECTION = '"\'></script><img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'

expect.set_options(timeout=20_000)


def test_two_versions_of_a_library_see_the_same_list(example):
    with example("conflicting-libraries") as here:
        here.up("versions")
        old, new = here.run("python compare.py").split("packaging ")[1:]
        assert old.startswith("21.3\n")
        assert "2004d < 1.0rc1 < 1.0 " in old
        assert "refused nothing" in old
        assert new.startswith("25.0\n")
        assert "sorted  1.0rc1 < 1.0 " in new
        assert "Invalid version: '2004d'" in new
        listed = here.run("cellwork images -A versions ls")
        assert len(re.findall(r"^cellwork/python:\w{12} .* MiB .*versions\.sort_with_2[15]", listed, re.M)) == 2


def test_a_chord_comes_through_a_step_that_fails_once_and_tells_of_one_that_fails_for_good(example):
    with example("etl-chord") as here:
        worker = here.up("zones")
        printed = here.run("python pipeline.py")
        assert len(printed.splitlines()) == 7
        assert "Australia     11 zones, southernmost Australia/Hobart\n" in printed
        assert "Antarctica     8 zones" in printed
        assert re.search(r"zones\.transform\[.*\] retry: Retry in 1s: ConnectionError", worker())
        assert "zones.alert" not in worker().partition(" ready.")[2]
        broken = here.run("python pipeline.py Africa Atlantis", status=1)
        assert "the pipeline failed: " in broken
        assert "the table has no zone in Atlantis" in broken
        wait_until(lambda: "the pipeline failed before zones.load[" in worker(), what="the alert")


def test_training_that_asks_for_a_gpu_becomes_a_pod_and_the_light_steps_stay(example, cluster):
    pods = {"KUBECONFIG": str(cluster.kubeconfig), "CELLWORK_KUBE_NAMESPACE": cluster.namespace}
    with example("gpu-pods", TRAINING_IMAGE=cluster.image, **pods) as here:
        containers = here.up("training")
        kubernetes = here.start("cellwork worker -A training --executor kubernetes", " ready.")
        heavy = here.run("cellwork route -A training training.train")
        assert heavy == "training.train → executor kubernetes, queue kubernetes: gpus 1 > 0\n"
        light = here.run("cellwork route -A training training.prepare")
        assert light.startswith("training.prepare → executor docker, queue docker: ")
        grown = here.run("cellwork route -A training training.prepare -o memory=8g")
        assert grown.endswith("executor kubernetes, queue kubernetes: memory 8 GiB > 4 GiB\n")
        printed = here.start("python train.py", "")
        (pod,) = wait_until(
            lambda: cluster.api.list_namespaced_pod(cluster.namespace).items, timeout=60, what="the training's pod"
        )
        assert pod.spec.containers[0].resources.limits["nvidia.com/gpu"] == "1"
        wait_until(printed, timeout=60, what="the result")
        assert printed() == "y = 3.00x + 2.00, trained on the processor: this sandbox sees no GPU\n"
        assert "Task training.train[" not in containers()
        assert "epoch 150: loss 0.0" in kubernetes()
        wait_until(lambda: cluster.left() == [], timeout=40, what="the pod to be gone")


def test_ffmpeg_makes_a_film_and_converts_it_in_a_folder_that_the_policy_allows(example):
    with example("ffmpeg") as here:
        here.run("mkdir -p media")
        here.up("media")
        here.run("cellwork run media:trailer film.mp4")
        here.run("cellwork run media:convert film.mp4 film.webm")
        here.run("cellwork run media:convert film.webm film.wav")
        assert (here.folder / "media/film.webm").read_bytes().startswith(b"\x1a\x45\xdf\xa3"), "Matroska's mark"
        with wave.open(str(here.folder / "media/film.wav")) as tone:
            rate, samples = tone.getframerate(), memoryview(tone.readframes(tone.getnframes())).cast("h")
            assert tone.getnchannels() == 1
        assert abs(len(samples) / rate - 5) < 0.1
        rises = sum(before < 0 <= after for before, after in pairwise(samples))
        assert abs(rises / 5 - 440) < 5, "the tone is an A"
        failed = here.run("cellwork run media:convert missing.mp4 film.webm", status=254)
        assert "missing.mp4: No such file" in failed or "Error opening input file file:missing.mp4" in failed


def test_a_django_page_enqueues_and_shows_what_the_worker_stored(example, page):
    port = free_port()
    with example("django") as here:
        here.run("pip install -r requirements.txt")
        assert "Applying reports.0001_initial... OK" in here.run("python manage.py migrate")
        here.up("mysite")
        here.start("python manage.py runserver", "Quit the server", "--noreload", str(port))
        page.goto(f"http://127.0.0.1:{port}/")
        page.get_by_label("Text").fill(f"the cat, the dog, the bird and the fish {INJECTION}")
        page.get_by_role("button", name="Analyse").click()
        expect(page.get_by_role("heading")).to_have_text(re.compile(r"Report 1\s+done"))
        expect(page.locator("li").first).to_have_text("the (4)")
        expect(page.locator("blockquote")).to_contain_text("onerror=")
        page.get_by_role("link", name="Another one").click()
        expect(page.locator("li")).to_contain_text("done")


def test_a_page_shows_how_far_a_task_is_and_stops_it(example, page, nothing_left, tmp_path):
    port = free_port()
    with example("fastapi-progress") as here:
        here.run("pip install -r requirements.txt")
        here.up("tasks")
        here.start("uvicorn web:web --timeout-graceful-shutdown 1", "Uvicorn running", "--port", str(port))
        answer = page.goto(f"http://127.0.0.1:{port}/")
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        state, pi = page.locator("#state"), page.locator("#pi")
        page.get_by_role("button", name="Start").click()
        expect(state).to_have_text(re.compile(r"Step \d+ of 40"))
        assert 0 < page.locator("#bar").evaluate("bar => bar.value") < 1
        expect(pi).to_have_text(re.compile(r"π ≈ 3\.1\d{4}"))
        page.screenshot(path=tmp_path / "progress.png")
        expect(state).to_have_text("Done", timeout=60_000)
        expect(pi).to_have_text(re.compile(r"π ≈ 3\.1[34]\d{3}"))
        page.get_by_label("Steps").fill("500")
        page.get_by_role("button", name="Start").click()
        expect(state).to_have_text(re.compile(r"Step \d+ of 500"))
        page.get_by_role("button", name="Stop").click()
        expect(state).to_have_text("Stopped")
        nothing_left()


def test_beat_sends_and_each_run_is_a_sandbox_of_its_own(example):
    with example("beat", EVERY="1") as here:
        worker = here.up("clock")
        here.start("celery -A clock beat --loglevel=INFO", "Sending due task heartbeat")

        def beats() -> list[str]:
            return re.findall(r"cellwork-\S+\| it is \d\d:\d\d:\d\d, beat (\d+) of this sandbox", worker())

        wait_until(lambda: len(beats()) >= 3, timeout=30, what="three heartbeats")
        assert set(beats()) == {"1"}
        assert here.run("cellwork run clock:report 7") == "nothing happened in 7 days\n"
        known = "from clock import app; print({e['task'] for e in app.conf.beat_schedule.values()} <= set(app.tasks))"
        checked = subprocess.run(["python", "-c", known], cwd=here.folder, env=here.env, capture_output=True, text=True)
        assert checked.stdout == "True\n", checked.stderr
