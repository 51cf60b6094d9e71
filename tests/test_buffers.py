"""The pool of registered memory, and when a destination goes back to it."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import resource
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectcache.buffers import SEALS, Buffer, BufferPool, BufferState
from objectcache.cache.destination import Destination
from objectcache.errors import BufferPoolExhaustedError, ConfigError, ObjectCacheError
from objectcache.layout import ALIGNMENT_BYTES
from objectcache.pages import fill_page_table

PAGE = ALIGNMENT_BYTES


@pytest.fixture
def pool() -> Iterator[BufferPool]:
    made = BufferPool(8 * PAGE)
    yield made
    made.close()


def test_buffers_are_aligned_and_as_long_as_asked_for(pool: BufferPool) -> None:
    buffers = [pool.allocate(size) for size in (1, PAGE, PAGE + 1, 0)]
    assert [len(buffer.view) for buffer in buffers] == [1, PAGE, PAGE + 1, 0]
    assert all(buffer.offset % PAGE == 0 for buffer in buffers)
    assert len({buffer.generation for buffer in buffers}) == 4
    assert pool.usage().in_use_bytes == 5 * PAGE


def test_an_exhausted_pool_says_what_its_memory_is_used_for(pool: BufferPool) -> None:
    kept, hanging = pool.allocate(5 * PAGE), pool.allocate(3 * PAGE)
    pool.quarantine(hanging)
    with pytest.raises(BufferPoolExhaustedError, match=f"{5 * PAGE} are in use and {3 * PAGE} in quarantine"):
        pool.allocate(1)
    pool.release(hanging)
    assert pool.allocate(3 * PAGE).offset == hanging.offset
    pool.release(kept)
    with pytest.raises(BufferPoolExhaustedError):
        pool.allocate(8 * PAGE)


def test_the_same_memory_is_another_generation(pool: BufferPool) -> None:
    first = pool.allocate(PAGE)
    pool.release(first)
    second = pool.allocate(PAGE)
    assert second.offset == first.offset
    assert second.generation != first.generation


def test_a_second_release_is_refused_and_frees_nothing(pool: BufferPool) -> None:
    first = pool.allocate(PAGE)
    pool.release(first)
    second = pool.allocate(PAGE)
    with pytest.raises(ObjectCacheError):
        pool.release(first)
    pool.quarantine(first)
    assert second.state is BufferState.IN_USE
    assert pool.usage().in_use_bytes == PAGE


def test_the_memory_is_a_file_that_another_process_can_map(pool: BufferPool) -> None:
    buffer = pool.allocate(3 * PAGE)
    other = mmap.mmap(pool.fileno(), pool.size_bytes)
    other[buffer.offset : buffer.offset + 4] = b"kept"
    assert bytes(buffer.view[:4]) == b"kept"
    assert not os.get_inheritable(pool.fileno())
    other.close()


def test_views_outlive_the_pool() -> None:
    pool = BufferPool(PAGE)
    buffer = pool.allocate(PAGE)
    buffer.view[:4] = b"kept"
    pool.close()
    pool.close()
    assert bytes(buffer.view[:4]) == b"kept"
    with pytest.raises(ObjectCacheError):
        pool.allocate(1)


@settings(max_examples=60)
@given(st.data())
def test_is_like_a_set_of_ranges(data: st.DataObject) -> None:
    """Whatever the order: no two buffers overlap, all that is free can be had, and the sums are right."""
    pages = 16
    pool = BufferPool(pages * PAGE)
    held: list[Buffer] = []
    for _ in range(data.draw(st.integers(1, 40))):
        what = data.draw(st.sampled_from(["allocate", "release", "quarantine"]))
        if what == "allocate":
            wanted = data.draw(st.integers(1, 6))
            taken = {page for b in held for page in range(b.offset // PAGE, (b.offset + b.size_bytes) // PAGE)}
            fits = any(all(at + i not in taken for i in range(wanted)) for at in range(pages - wanted + 1))
            try:
                buffer = pool.allocate(wanted * PAGE - data.draw(st.integers(0, PAGE - 1)))
            except BufferPoolExhaustedError:
                assert not fits
                continue
            assert fits
            mine = set(range(buffer.offset // PAGE, buffer.offset // PAGE + wanted))
            assert not mine & taken
            assert max(mine) < pages
            held.append(buffer)
        elif held:
            buffer = data.draw(st.sampled_from(held))
            if what == "quarantine":
                pool.quarantine(buffer)
            else:
                pool.release(buffer)
                held.remove(buffer)
        usage = pool.usage()
        assert usage.in_use_bytes + usage.quarantined_bytes == sum(b.size_bytes for b in held)
        assert usage.quarantined_bytes == sum(b.size_bytes for b in held if b.state is BufferState.QUARANTINED)
    for buffer in held:
        pool.release(buffer)
    assert pool.allocate(pages * PAGE).offset == 0
    pool.close()


# -- destinations -------------------------------------------------------------------------------------


def test_a_complete_delivery_gives_its_memory_back_when_it_is_closed(pool: BufferPool) -> None:
    destination = Destination(pool, pool.allocate(PAGE))
    destination.begin(cancel=pytest.fail)
    destination.close(complete=True)
    assert pool.usage().in_use_bytes == 0
    destination.fence()
    destination.close(complete=True)
    assert pool.usage().in_use_bytes == 0


def test_a_cancelled_delivery_is_in_quarantine_until_its_fence(pool: BufferPool) -> None:
    destination = Destination(pool, pool.allocate(PAGE))
    cancelled: list[bool] = []
    destination.begin(cancel=lambda: cancelled.append(True))
    destination.close(complete=False)
    assert cancelled == [True]
    assert pool.usage().quarantined_bytes == PAGE
    destination.fence()
    assert pool.usage().quarantined_bytes == 0


def test_a_fence_alone_frees_nothing_that_somebody_reads(pool: BufferPool) -> None:
    destination = Destination(pool, pool.allocate(PAGE))
    destination.begin(cancel=pytest.fail)
    destination.fence()
    assert pool.usage().in_use_bytes == PAGE
    destination.close(complete=False)
    assert pool.usage().in_use_bytes == 0


def test_nothing_is_cancelled_that_was_never_begun(pool: BufferPool) -> None:
    destination = Destination(pool, pool.allocate(PAGE))
    assert destination.wait_fenced(0.0)
    destination.close(complete=False)
    assert pool.usage().in_use_bytes == 0


def test_a_second_attempt_needs_a_fence_of_its_own(pool: BufferPool) -> None:
    destination = Destination(pool, pool.allocate(PAGE))
    destination.begin(cancel=lambda: None)
    destination.fence()
    destination.begin(cancel=lambda: None)
    assert not destination.fenced
    destination.close(complete=False)
    assert pool.usage().quarantined_bytes == PAGE
    destination.fence()
    assert pool.usage().quarantined_bytes == 0


def test_closing_and_fencing_at_once_frees_once(pool: BufferPool) -> None:
    for _ in range(200):
        destination = Destination(pool, pool.allocate(PAGE))
        destination.begin(cancel=lambda: None)
        threads = [
            threading.Thread(target=destination.fence),
            threading.Thread(target=destination.close, args=(False,)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert pool.usage().in_use_bytes + pool.usage().quarantined_bytes == 0


# -- sealed, registered, taken at once ----------------------------------------------------------------


def test_the_memory_cannot_become_shorter_or_longer(pool: BufferPool) -> None:
    assert fcntl.fcntl(pool.fileno(), fcntl.F_GET_SEALS) == SEALS
    for size in (0, PAGE, 9 * PAGE):
        with pytest.raises(PermissionError):
            os.ftruncate(pool.fileno(), size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(pool.fileno(), fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_the_pool_is_registered_as_a_whole_until_it_closes() -> None:
    pool = BufferPool(8 * PAGE)
    told: list[object] = []

    def registrar(address: int, size_bytes: int) -> Callable[[], None]:
        ctypes.memmove(address + size_bytes - 3, b"end", 3)
        told.append(size_bytes)
        return lambda: told.append("undone")

    pool.register(registrar)
    assert bytes(pool.allocate(8 * PAGE).view[-3:]) == b"end"
    assert told == [8 * PAGE]
    pool.close()
    pool.close()
    assert told == [8 * PAGE, "undone"]
    with pytest.raises(ObjectCacheError):
        pool.register(registrar)


def test_a_pool_that_could_not_be_registered_closes_all_the_same() -> None:
    pool = BufferPool(PAGE)

    def fails(address: int, size_bytes: int) -> Callable[[], None]:
        raise ConfigError("too much")

    with pytest.raises(ConfigError):
        pool.register(fails)
    pool.close()


def taken_bytes(pool: BufferPool) -> int:
    return os.fstat(pool.fileno()).st_blocks * 512


@pytest.mark.parametrize("old_kernel", [False, True])
def test_memory_is_taken_when_written_or_at_once(monkeypatch: pytest.MonkeyPatch, old_kernel: bool) -> None:
    if old_kernel:
        monkeypatch.setattr("objectcache.pages._POPULATE_WRITE", 12345)
    for prefault, taken in ((False, 0), (True, 8 * PAGE)):
        pool = BufferPool(8 * PAGE, prefault=prefault)
        assert pool.prefaulted is prefault
        assert taken_bytes(pool) == taken
        pool.close()


def test_who_maps_a_pool_finds_its_pages_without_a_fault_and_unchanged() -> None:
    pool = BufferPool(1024 * PAGE, prefault=True)
    pool.memory[:] = b"k" * pool.size_bytes

    def faults(filled: bool) -> int:
        with mmap.mmap(pool.fileno(), pool.size_bytes) as theirs:
            if filled:
                fill_page_table(memoryview(theirs))
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for at in range(0, pool.size_bytes, PAGE):
                theirs[at] = theirs[at]
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    assert faults(filled=False) >= pool.size_bytes // mmap.PAGESIZE // 32  # the kernel may map some around each
    assert faults(filled=True) < 16
    assert bytes(pool.memory) == b"k" * pool.size_bytes
    pool.close()


@pytest.mark.parametrize("shared", [False, True])
def test_a_pool_may_be_larger_than_what_there_is(shared: bool) -> None:
    pool = BufferPool(2 * os.sysconf("SC_PHYS_PAGES") * PAGE, shared=shared)
    pool.allocate(PAGE).view[:] = bytes(PAGE)
    pool.close()


@pytest.mark.parametrize("prefault", [False, True])
def test_a_pool_that_is_not_shared_has_no_file(prefault: bool) -> None:
    pool = BufferPool(8 * PAGE, prefault=prefault, shared=False)
    with pytest.raises(ObjectCacheError):
        pool.fileno()
    view = pool.allocate(8 * PAGE).view
    view[:] = bytes(range(256)) * (8 * PAGE // 256)
    copy = (ctypes.c_char * (8 * PAGE)).from_address(pool.address)
    assert bytes(copy) == view == pool.memory
    memory = pool.memory
    pool.close()
    assert memory[-1] == 255, "whoever holds it keeps it mapped"
