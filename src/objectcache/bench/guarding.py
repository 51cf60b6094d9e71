"""Services that run while something needs them, and end with it, however it ends."""

from __future__ import annotations

import os
import random
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from objectcache.bench.errors import BenchmarkError

_END_TIMEOUT_S = 60.0

# Starts the service and waits for the end of whoever wants it, whatever brings it; then it ends too, its files go.
_GUARDIAN = """
trap : PIPE  # when nobody is left to be told
"$1" start </dev/null >/dev/null && echo up || echo failed
read -r _
"$1" "$2"
rm -rf "$3"
"""


@contextmanager
def guarded(script: Path, end: str, directory: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """`script start`, run meanwhile; `script END` afterwards, and `directory` is removed. Raises BenchmarkError."""
    with subprocess.Popen(
        ["bash", "-c", _GUARDIAN, "guardian", str(script), end, str(directory)],
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C, or what ends its clients by a time limit, must not end it
    ) as guardian:
        assert guardian.stdout is not None
        try:
            if guardian.stdout.readline() != "up\n":
                raise BenchmarkError(f"{script.name} start failed: what it said is on standard error")
            yield
        finally:
            guardian.communicate(timeout=_END_TIMEOUT_S)


def free_ports(number: int) -> int:
    """The first of `number` in a row that nobody listens on, below those that the kernel gives to clients."""
    for _ in range(200):
        first = random.randrange(20_000, 32_000 - number)
        try:
            for port in range(first, first + number):
                with socket.create_server(("127.0.0.1", port)):
                    pass
        except OSError:
            continue
        return first
    raise BenchmarkError(f"no {number} free ports in a row between 20000 and 32000")
