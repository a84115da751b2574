"""An engine behind TCP and TLS, with client certificates: what DOCKER_HOST=tcp://… DOCKER_TLS_VERIFY=1 means."""

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

TIMEOUT = 60
ENGINE = "/var/run/docker.sock"


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
    except OSError:
        pass
    finally:
        try:
            target.shutdown(socket.SHUT_WR)
        except OSError:
            target.close()


def serve(connection: socket.socket, context: ssl.SSLContext) -> None:
    try:
        inner = context.wrap_socket(connection, server_side=True)
    except OSError:
        connection.close()
        return
    with inner, socket.socket(socket.AF_UNIX) as engine:
        engine.connect(ENGINE)
        there = threading.Thread(target=pump, args=(inner, engine), daemon=True)
        there.start()
        pump(engine, inner)
        there.join()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Path:
    """As DOCKER_CERT_PATH wants them; one certificate is everybody's."""
    folder = tmp_path_factory.mktemp("tls")
    names = ["-subj", "/CN=engine", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *files]
    subprocess.run(command, check=True, capture_output=True)
    (folder / "ca.pem").write_bytes((folder / "cert.pem").read_bytes())
    return folder


@pytest.fixture(scope="module")
def address(certificates) -> Iterator[str]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates / "ca.pem"))
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection, context), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()


def test_tasks_run_on_an_engine_behind_tls(address, certificates, start_worker, shop):
    worker = start_worker(
        *("-c", "2", "-Q", "remote"),
        DOCKER_HOST=address,
        DOCKER_TLS_VERIFY="1",
        DOCKER_CERT_PATH=str(certificates),
        # requests prefers these to the certificates that it is given.
        REQUESTS_CA_BUNDLE="",
        CURL_CA_BUNDLE="",
    )
    assert "executor docker: Docker engine" in worker.text
    for _ in range(3):
        assert shop.tasks.add.apply_async((1, 2), queue="remote").get(timeout=TIMEOUT) == 3
    long = "x" * 3_000_000
    assert shop.tasks.echo.apply_async((long,), queue="remote").get(timeout=TIMEOUT) == long
    assert len(shop.commands.checksum.apply_async(("text",), queue="remote").get(timeout=TIMEOUT)) == 65
    with pytest.raises(ValueError, match="far"):
        shop.tasks.fail_builtin.apply_async(("far",), queue="remote").get(timeout=TIMEOUT)
    assert shop.hostile.floods.apply_async((5,), queue="remote").get(timeout=TIMEOUT) == 5
    worker.stop()
