"""One end of the bare NIXL loop: a process that does nothing but write, or wait for what is written.

`python -m objectcache.bench.nixl_end` reads one JSON line: {"bytes"} makes it the receiver, which prints {"metadata",
"address"}; {"bytes", "sets": [[group bytes, …], …], "piece_bytes", "window", "metadata", "address"} the sender to that
receiver, which prints {}. A line {"set"} has the sender write one of its sets, and {"groups"}, pieces of each, has the
receiver say {} and, once they are there, {"landed_s"}, when each group was whole on CLOCK_MONOTONIC; {"check"} has it
compare that many bytes with what a sender writes. It ends when standard input does.

Neither has a thread of NIXL's: that polls without a pause, and takes a core from whoever has something to do.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from objectcache.transports.nixl.agent import INSTALL, PACKAGES


class WritePiece(NamedTuple):
    """`length` bytes at `at`, on both sides, of layer group `group`."""

    group: int
    at: int
    length: int


def write_pieces(groups: Sequence[int], piece_bytes: int) -> list[WritePiece]:
    """Layer groups of so many bytes, one after another, in pieces of at most `piece_bytes`."""
    pieces = []
    at = 0
    for group, group_bytes in enumerate(groups):
        for begin in range(0, group_bytes, piece_bytes):
            length = min(piece_bytes, group_bytes - begin)
            pieces.append(WritePiece(group, at, length))
            at += length
    return pieces


def pieces_of(group_bytes: int, piece_bytes: int) -> int:
    return -(-group_bytes // piece_bytes)


class _End:
    def __init__(self, name: str, size_bytes: int) -> None:
        os.environ.setdefault("NIXL_LOG_LEVEL", "ERROR")
        package = next((name for name in PACKAGES if find_spec(name) is not None), None)
        if package is None:
            raise SystemExit(INSTALL)
        api = import_module(f"{package}._api")
        config = api.nixl_agent_config(enable_prog_thread=False, backends=["UCX"])
        self.agent: Any = api.nixl_agent(name, config)
        self.memory: npt.NDArray[np.uint64] = np.zeros(-(-size_bytes // 8), np.uint64)
        self.memory[:: 4096 // 8] = 1  # the pages are there
        self.address: int = self.memory.ctypes.data
        self._registered = self.agent.register_memory([(self.address, self.memory.nbytes, 0, "")], "DRAM")

    @property
    def metadata(self) -> str:
        return base64.b64encode(self.agent.get_agent_metadata()).decode()


def _send(job: dict[str, Any]) -> None:
    end = _End("bare sender", job["bytes"])
    end.memory[:] = np.arange(len(end.memory))
    peer = end.agent.add_remote_agent(base64.b64decode(job["metadata"]))
    sets = [write_pieces(groups, job["piece_bytes"]) for groups in job["sets"]]
    print("{}", flush=True)
    for line in sys.stdin:
        _write(end, job["address"], peer, sets[json.loads(line)["set"]], job["window"])


def _write(end: _End, address: int, peer: str, pieces: Sequence[WritePiece], window: int) -> None:
    agent = end.agent
    flying: deque[Any] = deque()

    def land() -> None:
        handle = flying.popleft()
        while (state := agent.check_xfer_state(handle)) != "DONE":
            if state == "ERR":
                raise SystemExit("a WRITE failed")
        agent.release_xfer_handle(handle)

    for piece in pieces:
        here = agent.get_xfer_descs([(end.address + piece.at, piece.length, 0)], "DRAM")
        there = agent.get_xfer_descs([(address + piece.at, piece.length, 0)], "DRAM")
        handle = agent.initialize_xfer("WRITE", here, there, peer, str(piece.group).encode())
        if agent.transfer(handle) == "ERR":
            raise SystemExit("a WRITE failed")
        flying.append(handle)
        while len(flying) >= window:
            land()
    while flying:
        land()


def _receive(job: dict[str, Any]) -> None:
    end = _End("bare receiver", job["bytes"])
    print(json.dumps({"metadata": end.metadata, "address": end.address}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if "check" in asked:
            words = asked["check"] // 8
            print(json.dumps({"equal": bool((end.memory[:words] == np.arange(words)).all())}), flush=True)
            continue
        print("{}", flush=True)
        print(json.dumps({"landed_s": _wait(end.agent, asked["groups"])}), flush=True)


def _wait(agent: Any, missing: list[int]) -> list[float]:
    landed_s = [0.0] * len(missing)
    left = sum(missing)
    while left:
        for notes in agent.get_new_notifs().values():
            for note in notes:
                left -= 1
                group = int(note)
                missing[group] -= 1
                if not missing[group]:
                    landed_s[group] = time.perf_counter()
    return landed_s


def main() -> None:
    job = json.loads(sys.stdin.readline())
    (_send if "sets" in job else _receive)(job)
    # NIXL's own end waits for a peer that may be gone: nothing is to be kept.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
