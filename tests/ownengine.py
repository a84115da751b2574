"""A Docker engine of a test's own: it may be stopped, started again and run out of disk."""

import contextlib
import shutil
import subprocess
import tempfile
from pathlib import Path

import docker
import psutil
from docker.errors import APIError
from waiting import wait_until

#: Seconds.
_START, _STOP = 60, 60


class OwnEngine:
    """Beside the machine's engine, without networks: what runs there has none."""

    def __init__(self, *, disk: int = 0) -> None:
        """`disk`: bytes that it has; 0: as many as the machine."""
        # Short: a socket's path has 107 characters at most.
        self._folder = Path(tempfile.mkdtemp(prefix="cw"))
        self.data = self._folder / "data"
        self.data.mkdir()
        if disk:
            mount = ["mount", "-t", "tmpfs", "-o", f"size={disk}", "tmpfs", str(self.data)]
            subprocess.run(mount, check=True)
        self.socket = self._folder / "engine.sock"
        self.url = f"unix://{self.socket}"
        self.live_restore = False
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "OwnEngine":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def copy(self, image: str) -> None:
        """Take an image over from the machine's engine."""
        machines = docker.from_env()
        self.client.api.load_image(machines.api.get_image(image))
        machines.close()

    def start(self, *, live_restore: bool = False) -> None:
        """Start it and wait until it answers. `live_restore`: its sandboxes will run on while it does not."""
        where = [f"--host={self.url}", f"--data-root={self.data}", f"--exec-root={self._folder}/exec"]
        self.live_restore = live_restore
        apart = [f"--pidfile={self._folder}/pid", "--bridge=none", "--iptables=false"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                # A second engine would remove the machine's docker0: it gets a network of its own.
                ["unshare", "--net", "dockerd", *where, *apart, *(["--live-restore"] if live_restore else [])],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.client = wait_until(self._answers, timeout=_START, what="the engine to answer")

    def _answers(self) -> docker.DockerClient | None:
        assert self._process is not None
        assert self._process.poll() is None, f"the engine ended:\n{(self._folder / 'log').read_text()[-2000:]}"
        try:
            return docker.DockerClient(base_url=self.url)
        except docker.errors.DockerException:
            return None

    def stop(self) -> None:
        """As systemd stops it."""
        if self._process is not None:
            self.client.close()
            self._process.terminate()
            self._process.wait(_STOP)
            self._process = None

    def cannot_remove(self, container: docker.models.containers.Container) -> bool:
        """Whether it will keep this one for ever: one that ended amid a container's creation has left its files
        mounted, where its successors do not see them."""
        try:
            container.remove(force=True)
        except APIError as error:
            return "device or resource busy" in str(error.explanation)
        return False

    def close(self) -> None:
        """End what runs there and the engine, and remove all that it has.

        No container is removed by itself: of one whose creation an engine's end has cut off, something may still be
        mounted, and the engine then refuses.
        """
        if self._process is None:
            self.start()
        for container in self.client.containers.list(ignore_removed=True):
            with contextlib.suppress(APIError):  # it has ended meanwhile
                container.kill()
        self.stop()
        left = self._processes()
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        _, alive = psutil.wait_procs(left, timeout=_STOP)
        assert not alive, alive
        for mounted in self._mounts():
            # Lazily, for a process that is about to end may be in it. What is mounted on it came later and is gone.
            subprocess.run(["umount", "--lazy", mounted], check=True)
        shutil.rmtree(self._folder)

    def _processes(self) -> list[psutil.Process]:
        """Shims, and what they began, of containers that it was making when it ended: no successor knows them."""
        address = f"{self._folder}/exec/containerd/containerd.sock"
        shims = [one for one in psutil.process_iter(["cmdline"]) if address in (one.info["cmdline"] or ())]
        found = list(shims)
        for shim in shims:
            with contextlib.suppress(psutil.NoSuchProcess):  # it ends by itself
                found += shim.children(recursive=True)
        return found

    def _mounts(self) -> list[str]:
        """Below its folder, the last first: overlays, network namespaces, the folder on itself, a small disk."""
        lines = reversed(Path("/proc/self/mounts").read_text().splitlines())
        return [mounted for mounted in (line.split()[1] for line in lines) if mounted.startswith(f"{self._folder}/")]
