"""Pools and clusters that are missing, hang, are full; forks; closing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from objectcache.errors import (
    BucketMissingError,
    ConfigError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)
from objectcache.stores import open_store
from tests.gateway.process import eventually
from tests.services import Cluster
from tests.stores_rados.conftest import OpenStore

DATA = os.urandom(100_000)


def test_a_missing_pool_says_so(cluster: Cluster) -> None:
    with open_store(cluster.url("no-such-pool")) as store, pytest.raises(BucketMissingError, match="osd pool create"):
        store.head("a")


def test_a_missing_conf_says_so(tmp_path: Path) -> None:
    with open_store(f"rados://pool/kv?conf={tmp_path}/ceph.conf") as store, pytest.raises(ConfigError, match="conf="):
        store.head("a")


def test_a_cluster_that_cannot_be_reached_is_not_waited_for_long(tmp_path: Path) -> None:
    from objectcache.stores.rados import RadosStore, RadosTiming, parse_rados_url

    conf = tmp_path / "ceph.conf"
    conf.write_text("[global]\nmon host = [v2:127.0.0.1:19999,v1:127.0.0.1:19998]\nauth client required = none\n")
    where = parse_rados_url(f"rados://pool/kv?conf={conf}", {})
    begin_s = time.monotonic()
    with RadosStore(where, timing=RadosTiming(connect_s=1.0)) as store, pytest.raises(StoreUnavailableError):
        store.head("a")
    assert time.monotonic() - begin_s < 20


def test_an_osd_that_hangs_is_an_error_in_time_and_its_return_needs_nothing(
    cluster: Cluster, open_rados: OpenStore
) -> None:
    from objectcache.stores.rados import RadosTiming

    store = open_rados(timing=RadosTiming(request_s=1.0), stripe_bytes=16 << 10)
    store.put("a", DATA, if_absent=True)
    with store.open("a") as reader:
        cluster.suspend_osd()
        try:
            for call in (
                lambda: store.head("a"),
                lambda: reader.read(0, 10),
                lambda: reader.read(0, len(DATA)),
                lambda: store.put("b", DATA),
                lambda: store.put("c", b"1"),
                lambda: list(store.list()),
                lambda: store.delete("a"),
            ):
                begin_s = time.monotonic()
                with pytest.raises(StoreUnavailableError):
                    call()
                assert time.monotonic() - begin_s < 15
            reader.prefetch(0, len(DATA))
        finally:
            cluster.resume_osd()
        store.put("d", DATA)
        assert store.get("d") == DATA
        # What was under way may have been done since, or not.
        assert {info.name for info in store.list()} <= {"a", "b", "c", "d"}


def test_a_full_pool_is_an_error_at_once(cluster: Cluster, open_rados: OpenStore) -> None:
    pool = cluster.make_pool()
    store = open_rados(pool, stripe_bytes=16 << 10)
    store.put("a", DATA)

    def is_full() -> bool:
        try:
            store.put("b", DATA)
        except StoreFullError:
            return True
        return False

    def set_ratios(*ratios: str) -> None:
        for kind, ratio in zip(("nearfull", "backfillfull", "full"), ratios, strict=True):
            cluster.ceph("osd", f"set-{kind}-ratio", ratio)

    set_ratios("0.00001", "0.00002", "0.00003")
    try:
        eventually(is_full, "the OSD looks how full it is", within_s=60)
        assert store.get("a") == DATA
        store.delete("a")
        assert list(store.list("a")) == []
    finally:
        set_ratios("0.85", "0.9", "0.95")
    eventually(lambda: not is_full(), "there is room again", within_s=60)


_FORKING = """
import os, sys
from objectcache.stores import open_store
store = open_store(sys.argv[1])
data = bytes(range(256)) * 400
store.put("a", data)
reader = store.open("a")
pid = os.fork()
if pid == 0:
    assert reader.read(0, len(data)) == data
    store.put("of the child", data)
    store.close()
    sys.exit(0)  # with all that the interpreter does at its end
assert os.waitpid(pid, 0)[1] == 0
assert store.get("of the child") == data == reader.read(0, len(data))
pid = os.fork()
if pid == 0:
    sys.exit(0)  # without ever using it
assert os.waitpid(pid, 0)[1] == 0
assert store.get("a") == data
print("well")
"""


def test_children_connect_themselves(cluster: Cluster, pool: str) -> None:
    command = [sys.executable, "-c", _FORKING, cluster.url(pool, "forked")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (0, "well\n"), ended.stderr


_FORGETFUL = """
import sys
from objectcache.stores import open_store
store = open_store(sys.argv[1])
data = bytes(8 << 20)
store.put("a", data)
reader = store.open("a")
reader.prefetch(0, len(data))
store.delete("a")
"""


def test_a_process_that_closes_nothing_ends(cluster: Cluster, pool: str) -> None:
    for _ in range(5):
        command = [sys.executable, "-c", _FORGETFUL, cluster.url(pool, "forgotten")]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (ended.returncode, ended.stderr) == (0, "")


def test_stores_share_a_connection_until_the_last_is_closed(cluster: Cluster, pool: str, open_rados: OpenStore) -> None:
    from objectcache.stores.rados import connection

    stores = [open_store(cluster.url(pool, f"shared/{number}")) for number in range(3)]
    for store in stores:
        store.put("a", b"1")
    assert len({store._pool.handle().cluster for store in stores}) == 1  # type: ignore[attr-defined]
    shared = stores[0]._pool.handle().cluster  # type: ignore[attr-defined]
    for store in stores:
        assert store.get("a") == b"1"
        store.close()
        with pytest.raises(StoreError):
            store.get("a")
    assert shared not in connection._clusters.values()
