"""The process as an operator meets it: start, readiness, refusal, stop."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from app.settings import Settings
from tests.e2e.service import START_TIMEOUT_S, Service, start_process
from tests.tiny_bundle import jpeg, write_tiny_bundle

TITLE = {"items": [{"text": "Puma Men Grey T-shirt"}]}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def answers(port: int, path: str) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False, timeout=30).status_code == 200
    except httpx.ConnectError:
        return False


def test_help_and_version_need_no_model(tmp_path: Path) -> None:
    for argument in ("--help", "--version"):
        with start_process(tmp_path, {}, [argument]) as process:
            out, error = process.communicate(timeout=START_TIMEOUT_S)
        assert (process.returncode, error) == (0, "")
        if argument == "--help":
            assert all(f"ITEMLENS_{name.upper()} = " in out for name in Settings.model_fields)


def test_it_is_ready_from_its_first_answer_until_it_stops(tiny_models: Path) -> None:
    port = free_port()
    with start_process(tiny_models, {"PORT": str(port)}) as early:
        assert not answers(port, "/health/live")
        early.kill()
        early.communicate()
    with Service(tiny_models, PORT=str(port)) as service:
        assert service.port == port
        assert answers(port, "/health/ready")
        assert answers(port, "/health/live")
        assert service.stop() == 0
    assert not answers(port, "/health/live")
    assert service.events()[-1]["event"] == "stopped"


def test_a_stop_lets_running_requests_finish(tiny_models: Path) -> None:
    """Three are on their way when SIGTERM comes: half a JSON body, half a bulk stream, and one idle connection."""
    body = json.dumps(TITLE).encode()
    line = json.dumps(TITLE["items"][0]).encode() + b"\n"
    with Service(tiny_models) as service:
        with (
            closing(service.connect()) as single,
            closing(service.connect()) as bulk,
            closing(service.connect()) as idle,
        ):
            head = "POST /v1/classify HTTP/1.1\r\nHost: itemlens\r\nContent-Type: {}\r\n{}\r\n\r\n"
            single.sendall(head.format("application/json", f"Content-Length: {len(body)}").encode() + body[:10])
            bulk.sendall(head.format("application/x-ndjson", f"Content-Length: {2 * len(line)}").encode() + line)
            received = read_until(bulk, lambda data: b'"index":0' in data)
            idle.sendall(b"GET /health/ready HTTP/1.1\r\nHost: itemlens\r\n\r\n")
            assert read_until(idle, lambda data: data.endswith(b"}")).startswith(b"HTTP/1.1 200")

            service.ask_to_stop()
            # The server closes what is idle once it has begun to stop: that is the moment to go on.
            assert idle.recv(1) == b""
            assert not answers(service.port, "/health/live")
            single.sendall(body[10:])
            bulk.sendall(line)
            answer = read_until(single, lambda data: False)
            received += read_until(bulk, lambda data: False)
        assert service.wait_until_stopped() == 0
    assert answer.startswith(b"HTTP/1.1 200")
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["results"][0]["status"] == "ok"
    assert received.startswith(b"HTTP/1.1 200")
    assert b'"index":1' in received
    assert received.endswith(b"0\r\n\r\n")
    assert [event["event"] for event in service.events()][-1] == "stopped"
    assert not service.error_lines or service.error_lines == ["INFO: Created TensorFlow Lite XNNPACK delegate for CPU."]


def read_until(connection: socket.socket, is_enough: Callable[[bytes], bool]) -> bytes:
    """What came until it was enough or the server closed."""
    received = b""
    while not is_enough(received) and (chunk := connection.recv(65536)):
        received += chunk
    return received


def break_hash(bundle: Path) -> None:
    (bundle / "labels.json").write_text("{}")


def break_manifest(bundle: Path) -> None:
    (bundle / "manifest.json").write_text("not json")


def lose_a_file(bundle: Path) -> None:
    (bundle / "model.tflite").unlink()


def lose_everything(bundle: Path) -> None:
    shutil.rmtree(bundle.parent)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (break_hash, "labels.json"),
        (break_manifest, "manifest"),
        (lose_a_file, "model.tflite"),
        (lose_everything, "no model"),
    ],
)
def test_a_broken_bundle_is_refused_in_one_line(tmp_path: Path, damage: Callable[[Path], None], said: str) -> None:
    damage(write_tiny_bundle(tmp_path))
    with start_process(tmp_path, {}) as process:
        out, error = process.communicate(timeout=START_TIMEOUT_S)
    assert process.returncode == 1
    assert said in error
    assert error.count("\n") == 1
    assert "Traceback" not in out + error
    # The log says why, for whoever collects only that; nothing claims to listen.
    assert all(json.loads(line)["event"] == "model_version_refused" for line in out.splitlines())


def test_an_older_version_serves_when_the_newest_is_broken(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path, version=1)
    break_hash(write_tiny_bundle(tmp_path, version=2))
    with Service(tmp_path) as service:
        assert service.post("/v1/classify", TITLE).json()["model"] == {"name": "tiny", "version": "1"}
        versions = service.client.get("/v1/models/tiny").json()["versions"]
    assert [(entry["version"], entry["state"]) for entry in versions] == [("1", "ready"), ("2", "refused")]
    assert "labels.json" in versions[1]["reason"]


def test_both_runtimes_give_the_same_labels(tiny_models: Path, service: Service) -> None:
    titles = ["Puma Men Grey T-shirt", "Casio Women Steel Watch", None, "Levis Men Blue Checked Shirt"]
    items = [{"text": title} for title in titles if title]
    photos = [jpeg(seed) for seed in range(6)]
    with Service(tiny_models, RUNTIME="tensorflow") as other:
        assert any(event.get("runtime") == "tensorflow" for event in other.events())
        for both in (service, other):
            assert both.client.get("/health/ready").status_code == 200
        for photo in photos:
            form = {"image": ("photo.jpg", photo)}
            for model in ("tiny", "tiny-photos"):
                replies = [each.client.post("/v1/classify", files=form, data={"model": model}) for each in (service, other)]
                assert labels_of(replies[0]) == labels_of(replies[1])
        replies = [each.post("/v1/classify", {"items": items}) for each in (service, other)]
        assert labels_of(replies[0]) == labels_of(replies[1])


def labels_of(response: httpx.Response) -> list[dict[str, tuple[str | None, str]]]:
    assert response.status_code == 200, response.text
    return [
        {name: (answer["label"], answer["decision"]) for name, answer in result["attributes"].items()}
        for result in response.json()["results"]
    ]
