from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.benchmark.processes import cpu_seconds, parse_stat, paused, process_tree, proportional_mib, resident_mib

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux' /proc, as the command does")

_BURN = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
_PARENT = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {_BURN!r}])                 # has ended when CPU is read
child = subprocess.Popen([sys.executable, "-c", {_BURN!r} + "print('burnt', flush=True); input()"], stdin=subprocess.PIPE)
{_BURN}
print("burnt", flush=True)
input()
child.communicate(b"\\n")
"""


def test_a_stat_line_is_read_even_if_the_name_is_hostile() -> None:
    fields = "S 7 8 9 0 -1 0 0 0 0 0 100 50 25 25 20 0 1 0 4711 0"
    stat = parse_stat(f"42 (a) b (c) {fields}", ticks_per_s=100)
    assert (stat.pid, stat.parent, stat.session, stat.cpu_s, stat.started_ticks) == (42, 7, 9, 2.0, 4711)


def test_cpu_time_of_running_and_ended_children_counts_and_ours_does_not() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        # Two lines: the parent's and its running child's.
        assert [parent.stdout.readline(), parent.stdout.readline()] == [b"burnt\n", b"burnt\n"]
        used_s = cpu_seconds(parent.pid)
        tree = [stat.pid for stat in process_tree(parent.pid)]
        parent.stdin.write(b"\n")
    assert 0.85 <= used_s < 3.0  # 3 x 0.3 s, and the start of three interpreters
    assert len(tree) == 2
    assert parent.pid in tree
    assert os.getpid() not in tree
    assert process_tree(parent.pid) == []


def test_memory_is_read_in_mib() -> None:
    before = resident_mib(os.getpid())
    block = bytearray(os.urandom(1024)) * (64 * 1024)
    assert resident_mib(os.getpid()) - before > 50
    assert 0 < proportional_mib(os.getpid()) <= resident_mib(os.getpid()) * 1.1
    del block
    assert resident_mib(2**22 + 1) == 0.0


_SPIN = """
import subprocess, sys
if len(sys.argv) > 1:
    subprocess.Popen([sys.executable, "-c", sys.argv[1]])
while True:
    pass
"""


def test_what_is_paused_stands_still_with_all_that_it_started_and_goes_on_afterwards() -> None:
    with subprocess.Popen([sys.executable, "-c", _SPIN, _SPIN], start_new_session=True) as spinning:
        try:
            while len(process_tree(spinning.pid)) < 2 or cpu_seconds(spinning.pid) < 0.1:
                time.sleep(0.01)
            with paused([spinning.pid]):
                time.sleep(0.05)
                before_s = cpu_seconds(spinning.pid)
                time.sleep(0.3)
                assert cpu_seconds(spinning.pid) == before_s
            while cpu_seconds(spinning.pid) < before_s + 0.1:
                time.sleep(0.01)
        finally:
            os.killpg(spinning.pid, signal.SIGKILL)
