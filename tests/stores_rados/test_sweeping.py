"""What deleted objects and dead uploads leave, and who removes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from objectcache.errors import ObjectNotFoundError, StoreUnavailableError
from tests.gateway.process import eventually
from tests.services import Cluster
from tests.stores_rados.conftest import OpenStore

STRIPE_BYTES = 16 << 10
DATA = os.urandom(5 * STRIPE_BYTES + 100)


@pytest.fixture
def own_pool(cluster: Cluster) -> str:
    """With nothing in it."""
    return cluster.make_pool()


def data_objects(cluster: Cluster, pool: str) -> list[str]:
    """Names of all but the index."""
    listed = subprocess.run(
        ["rados", "-c", cluster.conf, "-p", pool, "ls"], capture_output=True, text=True, timeout=60, check=True
    )
    return [name for name in listed.stdout.split() if not name.startswith(("index.", "objectcache"))]


def test_data_objects_go_a_while_after_their_object(cluster: Cluster, own_pool: str, open_rados: OpenStore) -> None:
    from objectcache.stores.rados import SweepTiming

    store = open_rados(own_pool, stripe_bytes=STRIPE_BYTES, sweep_timing=SweepTiming(grace_s=3.0))
    store.put("a", DATA, if_absent=True)
    store.put("b", DATA)
    store.put("b", DATA)
    with store.open("a") as reader:
        store.delete("a")
        assert reader.read(0, len(DATA)) == DATA
        assert len(data_objects(cluster, own_pool)) == 18
        eventually(lambda: len(data_objects(cluster, own_pool)) == 6, "those of `b` are left")
        with pytest.raises(ObjectNotFoundError):
            reader.read(0, len(DATA))
    assert store.get("b") == DATA


def test_a_name_can_be_used_again_before_and_after_the_sweep(own_pool: str, open_rados: OpenStore) -> None:
    from objectcache.stores.rados import SweepTiming

    store = open_rados(own_pool, stripe_bytes=STRIPE_BYTES, sweep_timing=SweepTiming(grace_s=1.0))
    for round_ in range(4):
        data = bytes([round_]) * len(DATA)
        store.put("a", data, if_absent=True)
        with store.open("a", size_bytes=len(DATA)) as reader:
            assert reader.read(0, len(DATA)) == data
        store.delete("a")
        if round_ % 2:
            time.sleep(1.1)
            store.sweep()


def test_aborted_uploads_leave_nothing(cluster: Cluster, own_pool: str, open_rados: OpenStore) -> None:
    store = open_rados(own_pool, stripe_bytes=STRIPE_BYTES)
    with store.upload("a", if_absent=True) as upload:
        upload.write(DATA)
        assert data_objects(cluster, own_pool)
    assert data_objects(cluster, own_pool) == []
    assert [store._index.page(shard, "\x01", "") for shard in store._index.shards] == [[]] * 16


_UPLOADER = """
import os, sys
from objectcache.stores.rados import RadosStore, parse_rados_url
store = RadosStore(parse_rados_url(sys.argv[1], {}), stripe_bytes=16384)
upload = store.upload("a", if_absent=True)
upload.write(os.urandom(200_000))
upload._settle_writes()
print("written", flush=True)
sys.stdin.read()
upload.publish()
"""


@pytest.mark.parametrize("end", ["killed", "only slow"])
def test_what_an_upload_that_is_given_up_left_is_removed(
    cluster: Cluster, own_pool: str, open_rados: OpenStore, end: str
) -> None:
    from objectcache.stores.rados import SweepTiming

    patient = open_rados(own_pool)
    store = open_rados(own_pool, sweep_timing=SweepTiming(abandoned_s=0.5))
    uploader = subprocess.Popen(
        [sys.executable, "-c", _UPLOADER, store.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with uploader:
        assert uploader.stdout is not None
        assert uploader.stdout.readline() == "written\n"
        if end == "killed":
            uploader.send_signal(signal.SIGKILL)
        assert len(data_objects(cluster, own_pool)) == 12
        patient.sweep()
        assert len(data_objects(cluster, own_pool)) == 12
        time.sleep(1.5)  # in whole seconds
        store.sweep()
        assert data_objects(cluster, own_pool) == []
        _, errors = uploader.communicate(timeout=60)
    if end == "only slow":
        assert StoreUnavailableError.__name__ in errors
    assert list(store.list()) == []
    assert data_objects(cluster, own_pool) == []
    patient.put("a", DATA, if_absent=True)
    assert store.get("a") == DATA


def test_slow_uploads_say_that_they_are_alive(own_pool: str, open_rados: OpenStore) -> None:
    from objectcache.stores.rados import SweepTiming

    timing = SweepTiming(abandoned_s=3.0, heartbeat_s=0.2)
    store = open_rados(own_pool, stripe_bytes=STRIPE_BYTES, sweep_timing=timing)
    with store.upload("a") as upload:
        for _ in range(9):
            upload.write(DATA[:STRIPE_BYTES])
            time.sleep(0.5)
            store.sweep()
        upload.publish()
    assert store.get("a") == DATA[:STRIPE_BYTES] * 9
