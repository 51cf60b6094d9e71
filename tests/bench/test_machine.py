"""What the kernel tells about this machine and its processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from objectcache.bench.machine import StolenTime, anonymous_bytes, child_pids, cpu_s, describe_machine, filesystem_of


def test_stolen_time_is_a_share_of_what_was_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("objectcache.bench.machine._PROC", tmp_path)
    stat = tmp_path / "stat"

    def tell(*ticks: int) -> None:
        stat.write_text(f"cpu  {' '.join(map(str, ticks))} 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n")

    tell(100, 1, 50, 9000, 70, 2, 3, 40)  # user, nice, system, idle, iowait, irq, softirq, steal
    stolen = StolenTime()
    assert stolen.pct == 0
    tell(150, 2, 75, 9999, 99, 6, 13, 50)
    assert stolen.pct == pytest.approx(10.0), "10 of 100; what was idle was not wanted"


def test_stolen_time_of_this_machine() -> None:
    assert 0 <= StolenTime().pct <= 100


def test_a_machine_is_described_without_names(tmp_path: Path) -> None:
    machine = describe_machine(tmp_path, ["numpy", "no-such-package"])
    text = json.dumps(machine)
    assert socket.gethostname() not in text
    assert str(tmp_path) not in text
    assert machine["cores"] >= machine["usable_cores"] > 0
    assert machine["memory_bytes"] > 1 << 28
    assert machine["versions"]["no-such-package"] == "not installed"
    assert machine["versions"]["numpy"][0].isdigit()


def test_filesystems_are_found_by_the_innermost_mount(tmp_path: Path) -> None:
    assert filesystem_of(Path("/proc/self")) == "proc"
    assert filesystem_of(Path("/sys/kernel")) == "sysfs"
    assert filesystem_of(tmp_path) not in ("proc", "unknown")


def test_memory_and_time_of_processes() -> None:
    held = b"x" * (32 << 20)
    before_s = cpu_s(os.getpid())
    until_s = time.process_time() + 0.1
    while time.process_time() < until_s:
        pass
    assert anonymous_bytes(os.getpid()) > len(held)
    assert cpu_s(os.getpid()) > before_s


def test_children_come_and_go() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert child.pid in child_pids(os.getpid())
    child.communicate(b"\n")
    assert child.pid not in child_pids(os.getpid())
    with pytest.raises(FileNotFoundError):
        cpu_s(child.pid)
