"""Storing when something goes wrong: never in the engine's way, nothing half-visible, memory bounded, always an end."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import objectcache
from objectcache.cache import KVCache, UploadTicket
from objectcache.errors import LayoutError, RequestError, StoreFullError, StoreUnavailableError
from objectcache.keys import KeyChain, Namespace
from objectcache.storing import Reason, StoreHandle, StoreOptions, StoreQueue
from objectcache.storing.process_writer import ProcessWriter
from objectcache.testing.synthetic import new_namespace, prompt, retrieve_and_check
from tests.connectors.scripted import ScriptedCache
from tests.gateway.process import eventually
from tests.storing.engine import (
    CHUNKS,
    LAYERS,
    LAYOUT,
    OPTIONS,
    PART,
    SLICE_BYTES,
    WAIT_S,
    HeldSource,
    give,
    layer_of,
)

LAYER_BYTES = CHUNKS * SLICE_BYTES


class Scripted(ScriptedCache):
    """… and with commits that fail."""

    commit_error: Exception | None = None
    discarded: int = 0

    def commit(self, tickets: Sequence[UploadTicket], *, discard: Sequence[UploadTicket] = ()) -> None:
        self.discarded += len(discard)
        if tickets and self.commit_error is not None:
            raise self.commit_error
        super().commit(tickets, discard=discard)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[KVCache]:
    with objectcache.open(f"file://{tmp_path}/kv") as opened:
        yield opened


def new_prompt() -> tuple[Namespace, KeyChain]:
    namespace = new_namespace(LAYOUT)
    return namespace, prompt(namespace, CHUNKS)


def begun(queue: StoreQueue, namespace: Namespace, chain: KeyChain, **more: Any) -> StoreHandle:
    handle = queue.begin(namespace, chain, PART, **more)
    assert handle is not None
    return handle


def stores(queue: StoreQueue, cache: KVCache) -> bool:
    """Whether another prompt can be stored."""
    namespace, chain = new_prompt()
    handle = begun(queue, namespace, chain)
    give(handle, chain)
    handle.finish()
    assert handle.wait(WAIT_S)
    return handle.stored and retrieve_and_check(cache, namespace, chain).tokens == CHUNKS * 16


@contextmanager
def at_once() -> Iterator[None]:
    """Far less than what it would wait for."""
    start_s = time.monotonic()
    yield
    assert time.monotonic() - start_s < 20


def failing(at: int, error: Exception) -> Callable[[], None]:
    """Fails on the at-th write, and on no other."""
    writes = iter(range(1 << 20))

    def write() -> None:
        if next(writes) == at:
            raise error

    return write


@pytest.mark.parametrize("at", [0, 3, 8])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (StoreFullError("full"), Reason.FULL),
        (StoreUnavailableError("gone"), Reason.FAILED),
        (ZeroDivisionError(), Reason.FAILED),
    ],
)
def test_a_store_that_fails_drops_all_of_it(cache: KVCache, at: int, error: Exception, reason: Reason) -> None:
    script = Scripted(cache, before_write=failing(at, error))
    with StoreQueue(script, OPTIONS) as queue:
        namespace, chain = new_prompt()
        copied: list[int] = []
        handle = begun(queue, namespace, chain, on_copied=copied.append)
        taken = [handle.layer(layer, layer_of(chain, layer, 0, CHUNKS)) for layer in range(LAYERS)]
        handle.finish()
        assert handle.wait(WAIT_S)
        assert handle.reason is reason
        assert type(error).__name__ in repr(handle.error)
        assert queue.flush(WAIT_S)
        assert copied == [layer for layer in range(LAYERS) if taken[layer]]
        assert cache.match(namespace, chain).tokens == 0
        assert (queue.stats.lost, queue.stats.staged_bytes) == (1, 0)
        assert stores(queue, cache)


def test_a_look_up_that_fails_drops_it(cache: KVCache) -> None:
    failure = StoreUnavailableError("no gateway")
    script = Scripted(cache, match_error=failure)
    with StoreQueue(script, OPTIONS) as queue:
        namespace, chain = new_prompt()
        handle = begun(queue, namespace, chain)
        assert handle.wait(WAIT_S)
        assert handle.error is failure
        assert not handle.layer(0, layer_of(chain, 0, 0, CHUNKS))


def test_a_commit_that_fails_leaves_nothing(cache: KVCache) -> None:
    script = Scripted(cache)
    script.commit_error = StoreUnavailableError("no gateway")
    with StoreQueue(script, OPTIONS) as queue:
        namespace, chain = new_prompt()
        handle = begun(queue, namespace, chain)
        give(handle, chain)
        handle.finish()
        assert handle.wait(WAIT_S)
        assert (handle.reason, handle.error) == (Reason.FAILED, script.commit_error)
        assert queue.flush(WAIT_S)
        eventually(lambda: script.discarded == 3, "what was uploaded is dropped")
        assert cache.match(namespace, chain).tokens == 0
        script.commit_error = None
        assert stores(queue, cache)


def test_a_slow_store_drops_what_would_pile_up(cache: KVCache) -> None:
    go, begun_writes = threading.Event(), threading.Semaphore(0)

    def hang() -> None:
        begun_writes.release()
        go.wait(WAIT_S)

    script = Scripted(cache, before_write=hang)
    room = 2 * (LAYER_BYTES // 4096 + 1) * 4096
    with StoreQueue(script, replace(OPTIONS, staging_bytes=room)) as queue:
        namespace, chain = new_prompt()
        handle = begun(queue, namespace, chain)
        with at_once():
            taken = [handle.layer(layer, layer_of(chain, layer, 0, CHUNKS)) for layer in range(2)]
        for _ in range(3):  # segments, each with its part of the first layer
            assert begun_writes.acquire(timeout=WAIT_S)
        with at_once():
            taken.append(handle.layer(2, layer_of(chain, 2, 0, CHUNKS)))
        assert taken == [True, True, False]
        handle.finish()
        assert handle.wait(WAIT_S)
        assert handle.reason is Reason.BACKLOG
        other, others = new_prompt()
        assert not begun(queue, other, others).layer(0, layer_of(others, 0, 0, CHUNKS))
        go.set()
        assert queue.flush(WAIT_S)
        stats = queue.stats
        assert stats.staged_peak_bytes == room == stats.staging_bytes
        assert (stats.staged_bytes, stats.lost, stats.stored) == (0, 2, 0)
        assert cache.match(namespace, chain).tokens == 0
        assert script.aborted == len(script.stores)


def test_who_may_wait_waits_for_room(cache: KVCache) -> None:
    room = (LAYER_BYTES // 4096 + 1) * 4096
    with StoreQueue(Scripted(cache), replace(OPTIONS, staging_bytes=room)) as queue:
        namespace, chain = new_prompt()
        handle = begun(queue, namespace, chain)
        for layer in range(LAYERS):
            assert handle.layer(layer, layer_of(chain, layer, 0, CHUNKS), wait_s=WAIT_S)
        handle.finish()
        assert handle.wait(WAIT_S)
        assert handle.stored
        assert queue.stats.staged_peak_bytes == room


def test_staging_is_never_exceeded_whatever_comes_at_once(cache: KVCache) -> None:
    room = 3 * (LAYER_BYTES // 4096 + 1) * 4096
    with StoreQueue(cache, replace(OPTIONS, staging_bytes=room)) as queue:

        def engine(seed: int) -> None:
            for number in range(4):
                namespace = new_namespace(LAYOUT)
                chain = prompt(namespace, CHUNKS, seed=seed * 10 + number)
                handle = begun(queue, namespace, chain)
                give(handle, chain)
                handle.finish()

        threads = [threading.Thread(target=engine, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert queue.flush(WAIT_S)
        stats = queue.stats
        assert stats.staged_peak_bytes <= room
        assert (stats.staged_bytes, stats.offered) == (0, 16)
        assert stats.stored + stats.dropped.get(Reason.BACKLOG, 0) == 16
        assert stats.stored_bytes + stats.lost_bytes == stats.offered_bytes


def test_a_source_that_fails_or_hangs_is_the_engines_own(cache: KVCache) -> None:
    go = threading.Event()

    class Broken:
        def copy_into(self, memory: memoryview) -> None:
            raise RuntimeError("device lost")

    with StoreQueue(Scripted(cache), OPTIONS) as queue:
        namespace, chain = new_prompt()
        broken = begun(queue, namespace, chain)
        broken.layer(0, Broken())
        assert broken.wait(WAIT_S)
        assert "device lost" in str(broken.error)
        copied: list[int] = []
        held = begun(queue, *new_prompt(), on_copied=copied.append)
        with at_once():
            assert held.layer(0, HeldSource(bytes(LAYER_BYTES), go))
            held.abandon()
        assert held.wait(WAIT_S)
        assert queue.stats.staged_bytes > 0  # it may still be written
        assert copied == []
        assert stores(queue, cache)
        go.set()
        assert queue.flush(WAIT_S)
        assert copied == [0]
        assert queue.stats.staged_bytes == 0


def test_layers_out_of_order_or_of_another_size(cache: KVCache) -> None:
    with StoreQueue(Scripted(cache), OPTIONS) as queue:
        handle = begun(queue, *new_prompt())
        assert handle.layer(0, bytes(LAYER_BYTES))
        assert not handle.layer(2, bytes(LAYER_BYTES))
        assert isinstance(handle.error, RequestError)
        handle = begun(queue, *new_prompt())
        assert handle.layer(0, bytes(LAYER_BYTES - 1))
        assert handle.wait(WAIT_S)
        assert isinstance(handle.error, LayoutError)
        handle = begun(queue, *new_prompt())
        for layer in range(LAYERS):
            assert handle.layer(layer, bytes(LAYER_BYTES))
        assert not handle.layer(LAYERS, bytes(LAYER_BYTES))


def test_a_store_that_hangs_is_late_and_the_queue_still_closes(cache: KVCache) -> None:
    go = threading.Event()
    script = Scripted(cache, before_write=lambda: go.wait(WAIT_S))
    queue = StoreQueue(script, replace(OPTIONS, finish_s=0.1))
    namespace, chain = new_prompt()
    handle = begun(queue, namespace, chain)
    give(handle, chain)
    handle.finish()
    assert handle.wait(WAIT_S)
    assert handle.reason is Reason.LATE
    with at_once():
        queue.close(timeout_s=0.1)
    assert queue.begin(namespace, chain, PART) is None
    assert queue.stats.dropped[Reason.CLOSED] == 1
    go.set()
    assert cache.match(namespace, chain).tokens == 0


def test_closing_stores_what_was_finished_and_drops_the_rest(cache: KVCache) -> None:
    queue = StoreQueue(Scripted(cache), OPTIONS)
    finished, unfinished = new_prompt(), new_prompt()
    handles = [begun(queue, *each) for each in (finished, unfinished)]
    for handle, (_, chain) in zip(handles, (finished, unfinished), strict=True):
        give(handle, chain)
    handles[0].finish()
    queue.close()
    queue.close()
    assert [handle.reason for handle in handles] == [None, Reason.CLOSED]
    assert handles[0].stored
    assert not handles[1].layer(0, b"")
    assert retrieve_and_check(cache, *finished).tokens == CHUNKS * 16
    assert cache.match(*unfinished).tokens == 0


# -- the storing process ------------------------------------------------------------------------------


def process_of(queue: StoreQueue) -> int:
    assert isinstance(queue.writer, ProcessWriter)
    return queue.writer.pid


def test_the_storing_process_outlives_commits_that_fail(cache: KVCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def commit(*_: Any, **__: Any) -> None:
        raise StoreUnavailableError("no gateway")

    with StoreQueue(cache, OPTIONS) as queue:
        namespace, chain = new_prompt()
        handle = begun(queue, namespace, chain)
        give(handle, chain)
        with monkeypatch.context() as patch:
            patch.setattr(cache, "commit", commit)
            handle.finish()
            assert handle.wait(WAIT_S)
            assert queue.flush(WAIT_S)
        assert handle.reason is Reason.FAILED
        assert stores(queue, cache)
        assert queue.stats.processes == 1


def test_a_storing_process_that_dies_is_replaced(cache: KVCache) -> None:
    with StoreQueue(cache, OPTIONS) as queue:
        assert stores(queue, cache)
        namespace, chain = new_prompt()
        handle = begun(queue, namespace, chain)
        assert handle.layer(0, layer_of(chain, 0, 0, CHUNKS))
        eventually(lambda: queue.stats.staged_bytes == 0, "the process has read it")
        os.kill(process_of(queue), signal.SIGKILL)
        assert handle.wait(WAIT_S)
        assert handle.reason is Reason.FAILED
        assert queue.flush(WAIT_S)
        assert queue.stats.staged_bytes == 0
        assert cache.match(namespace, chain).tokens == 0
        assert stores(queue, cache)
        assert queue.stats.processes == 2
        assert queue.flush(WAIT_S)
        assert cache.core._room._reserved_bytes == 0  # type: ignore[attr-defined]


def test_the_process_copies_buffers_itself_and_tells_when_they_are_free(cache: KVCache) -> None:
    with StoreQueue(cache, OPTIONS) as queue:
        assert stores(queue, cache)
        if not queue.writer.copies:
            pytest.skip("processes may not read each other's memory here")
        namespace, chain = new_prompt()
        copied: list[int] = []
        handle = begun(queue, namespace, chain, on_copied=copied.append)
        for layer in range(LAYERS):
            data = bytearray(layer_of(chain, layer, 0, CHUNKS))
            assert handle.layer(layer, data)
            eventually(lambda layer=layer: layer in copied, "the layer is copied")  # type: ignore[misc]
            data[:] = bytes(len(data))  # the engine's again
        handle.finish()
        assert handle.wait(WAIT_S)
        assert retrieve_and_check(cache, namespace, chain).tokens == CHUNKS * 16


def test_a_storing_process_that_hangs_is_replaced(cache: KVCache) -> None:
    options: StoreOptions = replace(OPTIONS, finish_s=0.1, unstick_s=0.1)
    with StoreQueue(cache, options) as queue:
        namespace, chain = new_prompt()
        os.kill(process_of(queue), signal.SIGSTOP)
        handle = begun(queue, namespace, chain)
        give(handle, chain)
        handle.finish()
        assert handle.wait(WAIT_S)
        assert handle.reason is Reason.LATE
        assert queue.flush(WAIT_S)  # what hung has been ended, and with it whoever read the memory
        assert queue.stats.staged_bytes == 0
        assert cache.match(namespace, chain).tokens == 0


def test_a_source_that_hangs_is_no_reason_to_replace_the_process(cache: KVCache) -> None:
    go = threading.Event()
    with StoreQueue(cache, replace(OPTIONS, finish_s=0.1, unstick_s=0.0)) as queue:
        handle = begun(queue, *new_prompt())
        assert handle.layer(0, HeldSource(bytes(LAYER_BYTES), go))
        handle.finish()
        assert handle.wait(WAIT_S)
        assert handle.reason is Reason.LATE
        assert not queue.flush(0.5)
        assert queue.stats.processes == 1
        go.set()
        assert queue.flush(WAIT_S)


def test_the_storing_process_ends_with_the_queue(cache: KVCache) -> None:
    queue = StoreQueue(cache, OPTIONS)
    pid = process_of(queue)
    os.kill(pid, signal.SIGSTOP)
    with at_once():
        queue.close(0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_figures_have_names_for_prometheus(cache: KVCache) -> None:
    with StoreQueue(Scripted(cache), OPTIONS) as queue:
        assert stores(queue, cache)
        samples = {(name, tuple(labels.values())): value for name, labels, value in queue.stats.samples()}
    assert samples["objectcache_store_stored_bytes_total", ()] == LAYERS * LAYER_BYTES
    assert samples["objectcache_store_dropped_total", ("backlog",)] == 0
    assert samples["objectcache_store_staging_limit_bytes", ()] == OPTIONS.staging_bytes
