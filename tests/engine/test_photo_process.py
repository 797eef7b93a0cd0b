"""Large photos are decoded beside the service: the same pixels, limited time and memory, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from app.engine.errors import ImageTooLargeError, ItemError, ItemUnavailableError
from app.engine.images import decode_photo
from app.engine.photo_process import PhotoProcess, PhotoProcessError
from scripts.soak.photo_corpus import drawing, encode, hostile_photos, many_scans, png, valid_photos

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="the limits are POSIX's"),
    # As in the service, where the engine silences them: here they would be errors, and an error a refusal.
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
]
PROC = Path("/proc")
needs_proc = pytest.mark.skipif(not PROC.exists(), reason="reads /proc, as Linux has it")
SIZE = {"height": 80, "width": 60}
MIB = 1024 * 1024
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def process() -> Iterator[PhotoProcess]:
    shared = PhotoProcess(timeout_s=10, memory_bytes=256 * MIB)
    yield shared
    shared.close()


def slow_photo() -> bytes:
    """Twelve megapixels in hundreds of passes: seconds of work in a tenth of a megabyte."""
    return many_scans(2000, 3000, 4000)


def test_pixels_are_those_of_the_thread(process: PhotoProcess) -> None:
    for name, data in valid_photos().items():
        here = decode_photo(data, **SIZE, max_pixels=10_000)
        assert np.array_equal(process.decode_photo(data, **SIZE, max_pixels=10_000), here), name


def test_refusals_are_those_of_the_thread(process: PhotoProcess) -> None:
    for name, data in [*hostile_photos(), ("no photo", b"hello")]:
        outcomes: list[object] = []
        for decode in (decode_photo, process.decode_photo):
            try:
                decode(data, **SIZE, max_pixels=10_000)
                outcomes.append(None)
            except ItemError as error:
                outcomes.append((type(error), error.detail, error.field))
        assert outcomes[0] == outcomes[1], name


def test_one_process_serves_one_photo_after_the_other(process: PhotoProcess) -> None:
    data = valid_photos()["rgb.png"]
    process.decode_photo(data, **SIZE, max_pixels=10_000)
    pid = process.pid
    process.decode_photo(data, **SIZE, max_pixels=10_000)
    assert process.pid == pid is not None


def test_a_photo_that_takes_too_long_is_refused_and_the_next_one_answered() -> None:
    process = PhotoProcess(timeout_s=0.3, memory_bytes=256 * MIB)
    assert process.pid is None, "nothing is started before it is needed"
    process.decode_photo(valid_photos()["rgb.png"], **SIZE, max_pixels=10_000)
    first = process.pid
    data = slow_photo()
    with pytest.raises(ImageTooLargeError, match="time or memory"):
        process.decode_photo(data, **SIZE, max_pixels=50_000_000)
    process.decode_photo(valid_photos()["rgb.png"], **SIZE, max_pixels=10_000)
    assert process.pid != first
    process.close()


def test_a_process_that_hangs_is_killed() -> None:
    """Stopped, it uses no processor time: the service's own watch ends it."""
    process = PhotoProcess(timeout_s=0.5, memory_bytes=256 * MIB)
    data = valid_photos()["rgb.png"]
    process.decode_photo(data, **SIZE, max_pixels=10_000)
    first = process.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    with pytest.raises(ImageTooLargeError, match="time or memory"):
        process.decode_photo(data, **SIZE, max_pixels=10_000)
    assert process.pid is None


def test_a_photo_that_takes_too_much_memory_is_refused() -> None:
    process = PhotoProcess(timeout_s=10, memory_bytes=0)
    data = png(7000, 5000, 8, 6, bytes(5000 * (1 + 7000 * 4)))
    with pytest.raises(ImageTooLargeError, match="time or memory"):
        process.decode_photo(data, **SIZE, max_pixels=50_000_000)
    process.decode_photo(valid_photos()["rgba.png"], **SIZE, max_pixels=10_000)
    process.close()


def test_a_process_that_was_stopped_or_killed_is_replaced(process: PhotoProcess) -> None:
    data = valid_photos()["rgb.png"]
    process.decode_photo(data, **SIZE, max_pixels=10_000)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)  # the service alone ends it
    os.kill(process.pid, signal.SIGINT)
    process.decode_photo(data, **SIZE, max_pixels=10_000)
    first = process.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    process.decode_photo(data, **SIZE, max_pixels=10_000)
    assert process.pid != first


def test_an_idle_process_ends_and_the_next_photo_starts_another() -> None:
    process = PhotoProcess(timeout_s=10, memory_bytes=64 * MIB, idle_s=0.05)
    data = valid_photos()["rgb.png"]
    process.decode_photo(data, **SIZE, max_pixels=10_000)
    first = process.pid
    assert first is not None
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    process.decode_photo(data, **SIZE, max_pixels=10_000)
    assert process.pid != first
    process.close()


@needs_proc
def test_it_inherits_no_secret_and_may_write_no_file(process: PhotoProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ITEMLENS_API_KEYS_SHA256", "0" * 64)
    fresh = PhotoProcess(timeout_s=10, memory_bytes=64 * MIB)
    fresh.decode_photo(valid_photos()["rgb.png"], **SIZE, max_pixels=10_000)
    folder = PROC / str(fresh.pid)
    assert b"ITEMLENS" not in (folder / "environ").read_bytes()
    limits = (folder / "limits").read_text()
    for limit in ("Max file size", "Max core file size"):
        assert next(line for line in limits.splitlines() if line.startswith(limit)).split()[-3:-1] == ["0", "0"]
    assert (folder / "oom_score_adj").read_text().strip() == "1000"
    files = {os.readlink(entry) for entry in (folder / "fd").iterdir()}
    assert all(file.startswith("pipe:") or file == "/dev/null" for file in files), files
    fresh.close()


@needs_proc
def test_no_orphan_is_left_when_the_service_is_killed() -> None:
    """Even one in the middle of a photo ends: by its own clock."""
    program = (
        "import sys, threading\n"
        "from app.engine.photo_process import PhotoProcess\n"
        "from tests.engine.test_photo_process import SIZE, slow_photo, valid_photos\n"
        "process = PhotoProcess(timeout_s=1.0, memory_bytes=1 << 28)\n"
        "process.decode_photo(valid_photos()['rgb.png'], **SIZE, max_pixels=10_000)\n"
        "data = slow_photo()\n"
        "print(process.pid, flush=True)\n"
        "process.decode_photo(data, **SIZE, max_pixels=50_000_000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE) as service:
        assert service.stdout is not None
        orphan = PROC / service.stdout.readline().decode().strip()
        time.sleep(0.2)
        service.kill()
    deadline = time.monotonic() + 30
    while orphan.exists() and "Z (zombie)" not in (orphan / "status").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert time.monotonic() < deadline


@needs_proc
def test_a_lower_limit_of_memory_than_its_own_is_kept() -> None:
    """As of a service that was started below `ulimit -v`."""
    inherited = 1024 * MIB
    program = (
        "import resource, sys\n"
        "from app.engine.photo_process import PhotoProcess\n"
        "from tests.engine.test_photo_process import SIZE, valid_photos\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({inherited}, {inherited}))\n"
        "process = PhotoProcess(timeout_s=10, memory_bytes=1 << 40)\n"
        "process.decode_photo(valid_photos()['rgb.png'], **SIZE, max_pixels=10_000)\n"
        "print(open(f'/proc/{process.pid}/limits').read())\n"
        "process.close()\n"
    )
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    limits = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    line = next(line for line in limits.stdout.splitlines() if line.startswith("Max address space"))
    assert line.split()[-3:-1] == [str(inherited)] * 2


def test_a_machine_that_starts_no_process_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    process = PhotoProcess(timeout_s=1, memory_bytes=64 * MIB)
    for executable in ("/nowhere/python", "/bin/false"):
        monkeypatch.setattr(sys, "executable", executable)
        with pytest.raises(PhotoProcessError) as refused:
            process.decode_photo(encode(drawing(), "PNG"), **SIZE, max_pixels=10_000)
        assert isinstance(refused.value, ItemUnavailableError), "nothing is wrong with the photo, nor with its neighbours"
    monkeypatch.undo()
    process.decode_photo(encode(drawing(), "PNG"), **SIZE, max_pixels=10_000)
    process.close()
