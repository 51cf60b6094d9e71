"""The file store among processes, some of which are killed."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from objectcache.errors import ObjectNotFoundError
from objectcache.stores import FileStore
from objectcache.testing.store_listing import stored_names


def _start(root: Path, *lines: str) -> subprocess.Popen[str]:
    """Another process with `store`, which says "ready" after `lines` and waits for a line to end with."""
    script = "\n".join(
        [
            "import os, signal, sys",
            "from objectcache.errors import ObjectExistsError",
            "from objectcache.stores import FileStore",
            "store = FileStore(sys.argv[1])",
            *lines,
            "print('ready', flush=True)",
            "sys.stdin.readline()",
        ]
    )
    command = [sys.executable, "-c", script, str(root)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=30)


def test_a_killed_upload_leaves_nothing(tmp_path: Path) -> None:
    uploading = _start(tmp_path, "upload = store.upload('a', size_bytes=5000)", "upload.write(b'x' * 1000)")
    try:
        assert _read_line(uploading) == "ready"
        with FileStore(tmp_path, limit_bytes=10_000) as store:
            assert len(os.listdir(tmp_path / "tmp")) == 1, "swept although its process lives"
            assert store.usage().used_bytes == 5000
            assert stored_names(store) == []
    finally:
        _end(uploading)
    assert len(os.listdir(tmp_path / "tmp")) == 1
    with FileStore(tmp_path, limit_bytes=10_000) as store:
        assert os.listdir(tmp_path / "tmp") == []
        assert store.usage().used_bytes == 0
        assert stored_names(store) == []
        with pytest.raises(ObjectNotFoundError):
            store.head("a")


def test_own_uploads_are_not_swept(tmp_path: Path) -> None:
    with FileStore(tmp_path) as store, store.upload("a") as upload:
        upload.write(b"1")
        with FileStore(tmp_path):
            pass
        upload.publish()
        assert store.get("a") == b"1"


def test_killed_between_the_two_names_of_a_conditional_upload(tmp_path: Path) -> None:
    killed = _start(
        tmp_path,
        "os.unlink = lambda path: os.kill(os.getpid(), signal.SIGKILL)",
        "store.put('a', b'whole', if_absent=True)",
    )
    try:
        assert killed.wait(timeout=30) == -signal.SIGKILL
    finally:
        _end(killed)
    assert len(os.listdir(tmp_path / "tmp")) == 1
    with FileStore(tmp_path) as store:
        assert os.listdir(tmp_path / "tmp") == []
        assert store.get("a") == b"whole"
        assert store.usage().used_bytes == 5


def test_of_two_processes_one_wins(tmp_path: Path) -> None:
    rounds = 200
    race = [
        "print('go', flush=True)",
        "sys.stdin.readline()",
        "won = 0",
        f"for round in range({rounds}):",
        "    try:",
        "        store.put(f'{round}/a', b'%d' % os.getpid(), if_absent=True)",
        "        won += 1",
        "    except ObjectExistsError:",
        "        pass",
        "print(won)",
    ]
    racers = [_start(tmp_path, *race) for _ in range(2)]
    try:
        for racer in racers:
            assert _read_line(racer) == "go"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("\n")
            racer.stdin.flush()
        wins = {racer.pid: int(_read_line(racer)) for racer in racers}
    finally:
        for racer in racers:
            _end(racer)
    with FileStore(tmp_path) as store:
        winners = [int(store.get(f"{number}/a")) for number in range(rounds)]
    assert {pid: winners.count(pid) for pid in wins} == wins


def test_swept_before_it_was_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may look at a temporary just after it was made, and find nobody holding it."""
    real = fcntl.flock
    looked: list[int] = []

    def flock(descriptor: int, how: int) -> None:
        if not looked and not how & fcntl.LOCK_NB:
            looked.append(descriptor)
            with FileStore(tmp_path):
                assert os.listdir(tmp_path / "tmp") == []
        real(descriptor, how)

    with FileStore(tmp_path) as store:
        monkeypatch.setattr(fcntl, "flock", flock)
        store.put("a", b"1")
        assert looked
        assert store.get("a") == b"1"
