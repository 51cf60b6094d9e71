"""The machine that a result is from, and what its kernel tells about processes. Linux.

No host name and no paths: results are published.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_ESCAPED = re.compile(r"\\([0-7]{3})")


def describe_machine(data: Path, packages: Sequence[str]) -> dict[str, Any]:
    """`data` is where the benchmark stores, `packages` those whose versions matter to it. `load_average` is of the
    minute before: what else was going on."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_average": os.getloadavg()[0],
        "kernel": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "filesystem": filesystem_of(data),
        "tcp_congestion_control": _tcp_congestion_control(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": {name: _version(name) for name in packages},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cpu_model() -> str:
    for line in (_PROC / "cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or "unknown"  # Arm kernels do not name it


def _tcp_congestion_control() -> str:
    """The system's default: ours within a host have another (`transports.connecting`)."""
    setting = _PROC / "sys/net/ipv4/tcp_congestion_control"
    return setting.read_text().strip() if setting.exists() else "unknown"


def filesystem_of(path: Path) -> str:
    """The type of the filesystem that `path` is on, e.g. "ext4"."""
    real = path.resolve()
    found, length = "unknown", -1
    for line in (_PROC / "self" / "mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        mount = Path(_ESCAPED.sub(lambda match: chr(int(match[1], 8)), left.split()[4]))
        # Of mounts over one another the last is the one that is seen.
        if real.is_relative_to(mount) and len(mount.parts) >= length:
            found, length = right.split()[0], len(mount.parts)
    return found


class StolenTime:
    """How much of the processor time that this machine wanted, since this was made, its host gave to others: the
    kernel's `steal`. A virtual machine that lacks much of it says little about what it measures."""

    def __init__(self) -> None:
        self._busy, self._stolen = _processor_ticks()

    @property
    def pct(self) -> float:
        busy, stolen = _processor_ticks()
        wanted = busy - self._busy + stolen - self._stolen
        return 100 * (stolen - self._stolen) / wanted if wanted else 0.0


def _processor_ticks() -> tuple[int, int]:
    """Of all cores: busy, and stolen."""
    cpu = (_PROC / "stat").read_text().split("\n", 1)[0].split()
    user, nice, system, _, _, irq, softirq, stolen = map(int, cpu[1:9])
    return user + nice + system + irq + softirq, stolen


def cpu_s(pid: int) -> float:
    """CPU seconds, user and system, that all threads of a process have used; in steps of a clock tick (10 ms)."""
    user, system = _stat(pid)[11:13]
    return (int(user) + int(system)) / _TICKS_PER_S


def anonymous_bytes(pid: int) -> int:
    """Resident memory that is no file's: heaps and stacks, but neither the page cache nor shared mappings."""
    return _status_bytes(pid, "RssAnon")


def mapped_file_bytes(pid: int) -> int:
    """Resident pages of mapped files: the page cache's, which the kernel takes back when it needs them."""
    return _status_bytes(pid, "RssFile")


def _status_bytes(pid: int, field: str) -> int:
    for line in (_PROC / str(pid) / "status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return 0


def allocated_bytes(path: Path) -> int:
    """What a file, or all files below a directory, take on the disk."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_blocks * 512 for file in files)


def drop_page_cache(path: Path) -> None:
    """Of a file, or of all files below a directory, that nobody has mapped: the next read of them is the disk's."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)  # pages that are not written yet would stay
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def child_pids(pid: int) -> set[int]:
    children = set()
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            try:
                parent = int(_stat(int(entry.name))[1])
            except FileNotFoundError:  # it has ended meanwhile
                continue
            if parent == pid:
                children.add(int(entry.name))
    return children


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on: the name before it may contain anything."""
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
