"""Processes that die, and processes that read while another writes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

import pytest

from objectcache.catalog import Catalog, Follower
from objectcache.catalog.follower import publish_namespace
from objectcache.errors import CatalogError
from objectcache.logrecord import LogRecord
from objectcache.names import LOG_PREFIX, parse_log_name
from objectcache.stores import FileStore
from tests.catalog.processes import NAMESPACE, commit_for_ever, hold_view, match_until
from tests.catalog.world import Log, Segments, chain_of, content

KILLS = 20
# One server that has imported everything, and forks what dies.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.catalog.processes"])


def wait_for(path: Path) -> None:
    until_s = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < until_s
        time.sleep(0.001)


def test_a_catalog_outlives_its_process_wherever_that_is_killed(tmp_path: Path) -> None:
    random = Random(1)
    store = FileStore(tmp_path / "store")
    publish_namespace(store, NAMESPACE)
    with Catalog.open(tmp_path / "catalog") as catalog:
        writer = catalog.writer_id
    records = 0
    for _ in range(KILLS):
        running = tmp_path / "running"
        running.unlink(missing_ok=True)
        process = FORKS.Process(target=commit_for_ever, args=(tmp_path,))
        process.start()
        wait_for(running)
        time.sleep(random.uniform(0.0, 0.12))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL  # it had not ended by itself: no name was taken already

        with Catalog.open(tmp_path / "catalog") as catalog, Catalog.open(tmp_path / "rebuilt") as rebuilt:
            assert catalog.writer_id == writer
            assert records == 0 or catalog.stats().segments > 0  # it was not discarded
            follower = Follower(store, catalog)
            follower.poll()
            rebuilt.reset()
            Follower(store, rebuilt).poll()
            assert content(catalog) == content(rebuilt)
        names = [parse_log_name(info.name) for info in store.list(LOG_PREFIX)]
        assert {name.writer for name in names} <= {writer}
        logged = [0] if not names else [name.sequence for name in names]
        assert logged == list(range(logged[0], logged[-1] + 1))
        assert logged[-1] >= records
        records = logged[-1]
    assert records > 2 * KILLS


def test_readers_see_new_commits_while_the_map_grows(tmp_path: Path) -> None:
    chunks, step = 8192, 64
    chain = chain_of(NAMESPACE, "r" * chunks)
    segments = Segments(NAMESPACE)
    with Catalog.open(tmp_path / "catalog", map_bytes=1 << 17) as catalog:
        readers = []
        for _ in range(3):
            ours, theirs = FORKS.Pipe()
            process = FORKS.Process(target=match_until, args=(tmp_path, chunks, theirs))
            process.start()
            theirs.close()
            readers.append((process, ours))
        log = Log(catalog)
        for _, connection in readers:
            assert connection.recv() == 0
        for first in range(0, chunks, step):
            log.commit(segments.entry(chain, first, first + step))
        assert catalog.stats().map_bytes >= 1 << 20
        for process, connection in readers:
            seen = received(connection)
            assert seen[-1] == chunks
            assert seen == sorted(seen)
            assert all(held % step == 0 for held in seen)
            process.join()
            assert process.exitcode == 0


def received(connection: Connection) -> list[int]:
    """All that comes until the other end is closed."""
    found = []
    try:
        while connection.poll(30):
            found.append(connection.recv())
    except EOFError:
        return found
    raise AssertionError("the reader fell silent")


def test_readers_follow_when_the_catalog_begins_anew(tmp_path: Path) -> None:
    chain = chain_of(NAMESPACE, "r" * 64)
    with Catalog.open(tmp_path / "catalog") as catalog:
        Log(catalog).commit(Segments(NAMESPACE).entry(chain, 0, 32))
        ours, theirs = FORKS.Pipe()
        process = FORKS.Process(target=match_until, args=(tmp_path, 64, theirs))
        process.start()
        theirs.close()
        assert ours.recv() == 32
        catalog.reset()
        assert ours.recv() == 0
        Log(catalog).commit(Segments(NAMESPACE).entry(chain, 0, 64))
        assert received(ours) == [64]
        process.join()


def test_a_reader_that_died_does_not_make_the_catalog_grow(tmp_path: Path) -> None:
    """It held pages of an old state; nobody else reads that."""
    with Catalog.open(tmp_path / "catalog", map_bytes=1 << 20) as catalog:
        ours, theirs = FORKS.Pipe()
        process = FORKS.Process(target=hold_view, args=(tmp_path, theirs))
        process.start()
        ours.recv()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        for sequence in range(1, 400):
            catalog.touch([], 0.0)
            catalog.apply([LogRecord("w", sequence, 0.0)])
        assert catalog.stats().map_bytes == 1 << 20


def test_a_second_process_cannot_write(tmp_path: Path) -> None:
    process = FORKS.Process(target=commit_for_ever, args=(tmp_path,))
    process.start()
    wait_for(tmp_path / "running")
    with pytest.raises(CatalogError, match=rf"process {process.pid} on "):
        Catalog.open(tmp_path / "catalog")
    process.kill()
    process.join()
    Catalog.open(tmp_path / "catalog").close()
