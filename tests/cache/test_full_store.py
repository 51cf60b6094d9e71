"""A store with no room left at all: what was stored is still there, and room can still be made."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from objectcache.cache import KVCache, PartId
from objectcache.cache.core import CacheCore
from objectcache.cache.local import LocalCache
from objectcache.errors import StoreFullError
from objectcache.stores import FileStore
from objectcache.testing.synthetic import (
    flat_layout,
    new_namespace,
    prompt,
    retrieve_and_check,
    store_parts,
    upload_part,
)

LAYOUT = flat_layout(2, 32 << 10)
CHUNKS = 4
SEGMENT_BYTES = 2 * CHUNKS * 32 << 10
LIMIT_BYTES = 10 * SEGMENT_BYTES
DISK_BYTES = 8 << 20


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[LocalCache]:
    store = FileStore(tmp_path / "objects", limit_bytes=LIMIT_BYTES)
    with LocalCache(CacheCore.open(store, tmp_path / "catalog"), buffer_bytes=64 << 20) as cache:
        yield cache


@pytest.fixture
def on_small_disk(tmp_path: Path) -> Iterator[LocalCache]:
    """The objects on a real filesystem of a few MiB, whose end no limit announces; the catalog elsewhere."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)]
    try:
        made = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command to make a small filesystem with")
    if made.returncode:
        pytest.skip(f"a small filesystem cannot be mounted here (that takes root): {made.stderr.strip()}")
    store = FileStore(disk, limit_bytes=1 << 40)
    with LocalCache(CacheCore.open(store, tmp_path / "catalog"), buffer_bytes=64 << 20) as cache:
        yield cache
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill_to_the_last_byte(cache: LocalCache) -> None:
    """With plain objects, which nobody may evict."""
    usage = cache.core.store.usage()
    assert usage.limit_bytes is not None
    cache.core.store.put("filler", bytes(usage.limit_bytes - usage.used_bytes))
    assert cache.core.store.usage().used_bytes == usage.limit_bytes


def test_at_the_limit_to_the_byte_room_is_made(limited: LocalCache) -> None:
    namespace = new_namespace(LAYOUT)
    for seed in range(3):
        store_parts(limited, namespace, prompt(namespace, CHUNKS, seed=seed))
    fill_to_the_last_byte(limited)
    for seed in range(3, 9):
        store_parts(limited, namespace, prompt(namespace, CHUNKS, seed=seed))
        match = retrieve_and_check(limited, namespace, prompt(namespace, CHUNKS, seed=seed))
        assert match.tokens == CHUNKS * 16
        limited.release(match)
    assert limited.core.counters.evicted >= 3


def test_a_commit_at_the_limit_to_the_byte(limited: LocalCache) -> None:
    namespace = new_namespace(LAYOUT)
    store_parts(limited, namespace, prompt(namespace, CHUNKS))
    tickets = [upload_part(limited, namespace, prompt(namespace, CHUNKS, seed=seed)) for seed in (1, 2)]
    fill_to_the_last_byte(limited)
    limited.commit(tickets)
    for seed in (1, 2):
        assert retrieve_and_check(limited, namespace, prompt(namespace, CHUNKS, seed=seed)).tokens == CHUNKS * 16


def test_damage_at_the_limit_to_the_byte_is_forgotten(limited: LocalCache, tmp_path: Path) -> None:
    namespace = new_namespace(LAYOUT)
    chain = prompt(namespace, CHUNKS)
    (ticket,) = store_parts(limited, namespace, chain)
    fill_to_the_last_byte(limited)
    limited.core.forget(ticket.header.name)
    assert limited.match(namespace, chain).tokens == 0


def test_discarding_at_the_limit_makes_room(limited: LocalCache) -> None:
    namespace = new_namespace(LAYOUT)
    store_parts(limited, namespace, prompt(namespace, CHUNKS))
    ticket = upload_part(limited, namespace, prompt(namespace, CHUNKS, seed=1))
    fill_to_the_last_byte(limited)
    limited.commit([], discard=[ticket])
    usage = limited.core.store.usage()
    assert usage.limit_bytes is not None
    assert usage.limit_bytes - usage.used_bytes >= SEGMENT_BYTES


def test_a_disk_that_is_full_drops_stores_and_serves_hits(on_small_disk: LocalCache) -> None:
    cache = on_small_disk
    namespace = new_namespace(LAYOUT)
    stored, dropped = store_until_full(
        cache, lambda seed: store_parts(cache, namespace, prompt(namespace, CHUNKS, seed=seed))
    )
    assert dropped
    for seed in stored:
        assert retrieve_and_check(cache, namespace, prompt(namespace, CHUNKS, seed=seed)).tokens == CHUNKS * 16
    temporaries = Path(cache.core.store.url.removeprefix("file://")) / "tmp"
    assert list(temporaries.iterdir()) == []


def store_until_full(cache: KVCache, store: Callable[[int], object]) -> tuple[list[int], int]:
    stored: list[int] = []
    for seed in range(2 * DISK_BYTES // SEGMENT_BYTES):
        try:
            store(seed)
        except StoreFullError:
            return stored, seed
        stored.append(seed)
    return stored, 0


def test_an_upload_that_does_not_fit_on_the_disk_leaves_nothing(on_small_disk: LocalCache) -> None:
    namespace = new_namespace(flat_layout(4, 1 << 20))
    with pytest.raises(StoreFullError):
        on_small_disk.store(namespace, prompt(namespace, 4), PartId(0, 0))
    small = new_namespace(LAYOUT)
    store_parts(on_small_disk, small, prompt(small, CHUNKS))
    assert retrieve_and_check(on_small_disk, small, prompt(small, CHUNKS)).tokens == CHUNKS * 16
