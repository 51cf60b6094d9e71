"""When a process asks what others have written, and what that costs."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from objectcache.cache.core import CacheCore
from objectcache.cache.directory import open_beside
from objectcache.cache.following import FAR, NEAR, Following, Rhythm, Schedule
from objectcache.cache.local import LocalCache
from objectcache.errors import ObjectCacheError, StoreUnavailableError
from objectcache.stores import MemoryStore
from objectcache.testing.far import LatencyStore
from objectcache.testing.synthetic import FIRST, flat_layout, new_namespace, prompt, retrieve_and_check, upload_part

HOUR_S = 3600.0


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def ignore(_: ObjectCacheError) -> None:
    """Failures are not what is tested."""


def pass_time(following: Following, clock: Clock, seconds: float, *, use_every_s: float = math.inf) -> None:
    """What the thread would do in that time."""
    until_s = clock.now_s + seconds
    used_s = clock.now_s
    while clock.now_s < until_s:
        if clock.now_s - used_s >= use_every_s:
            following.use()
            used_s = clock.now_s
        following.step()
        clock.now_s += 0.25


@pytest.fixture
def far(tmp_path: Path) -> Iterator[tuple[CacheCore, LatencyStore, Following, Clock]]:
    """A core that nothing drives but `pass_time`."""
    clock = Clock()
    store = LatencyStore(MemoryStore())
    core = CacheCore.open(store, tmp_path / "catalog")
    following = Following(core.follow, lambda: None, FAR, ignore, clock=clock)
    yield core, store, following, clock
    core.close()


def requests(store: LatencyStore) -> int:
    return sum(store.request_counts().values())


def test_an_idle_hour_costs_nothing(far: tuple[CacheCore, LatencyStore, Following, Clock]) -> None:
    _, store, following, clock = far
    pass_time(following, clock, 60.0)  # it was opened, which is use
    before = requests(store)
    pass_time(following, clock, HOUR_S)
    assert requests(store) == before


def test_an_hour_of_use_costs_one_listing_a_second(far: tuple[CacheCore, LatencyStore, Following, Clock]) -> None:
    _, store, following, clock = far
    before = store.request_counts()
    pass_time(following, clock, HOUR_S, use_every_s=20.0)
    lists = store.request_counts()["list"] - before["list"]
    assert 0.7 * HOUR_S < lists <= HOUR_S
    assert requests(store) - sum(before.values()) == lists, "and nothing but listings"


def test_how_long_it_goes_on_after_the_last_use() -> None:
    schedule = Schedule(FAR, 0.0)
    assert schedule.look_in_s(0.0) == 1.0
    assert schedule.look_in_s(1.5) == 0.0
    schedule.looked(1.5, 1.75)
    assert schedule.look_in_s(1.75) == 1.0
    assert schedule.is_fresh(3.5)
    assert not schedule.is_fresh(3.51)
    assert schedule.look_in_s(30.0) == 0.0
    assert schedule.look_in_s(30.1) == math.inf
    schedule.use(5000.0)
    assert schedule.look_in_s(5000.0) == 0.0


def test_what_is_slow_waits_for_use_and_for_its_time() -> None:
    schedule = Schedule(FAR, 0.0)
    assert not schedule.take_slow(FAR.slow_first_s - 1)
    assert schedule.take_slow(FAR.slow_first_s)
    assert not schedule.take_slow(FAR.slow_first_s + FAR.slow_s - 1)
    assert schedule.take_slow(FAR.slow_first_s + FAR.slow_s)


def test_near_stores_are_followed_by_the_clock_and_always_fresh() -> None:
    schedule = Schedule(NEAR, 0.0)
    assert schedule.look_in_s(1e6) == 0.0
    assert schedule.is_fresh(1e6)


class Looks:
    """A look that takes as long as a test wants, and may fail."""

    def __init__(self) -> None:
        self.count = 0
        self.go_on = threading.Event()
        self.go_on.set()
        self.fails = False

    def __call__(self) -> None:
        self.count += 1
        self.go_on.wait(30)
        if self.fails:
            raise StoreUnavailableError("away")


QUICK = Rhythm(interval_s=0.05, idle_after_s=0.1, fresh_s=0.15, slow_s=HOUR_S, slow_first_s=HOUR_S)


@pytest.fixture
def looks() -> Looks:
    return Looks()


@pytest.fixture
def failures() -> list[ObjectCacheError]:
    return []


@pytest.fixture
def following(looks: Looks, failures: list[ObjectCacheError]) -> Iterator[Following]:
    following = Following(looks, lambda: None, QUICK, failures.append)
    following.start()
    yield following
    looks.go_on.set()
    following.stop()


def fall_idle(looks: Looks) -> None:
    """Return when it has not looked for a while."""
    count = -1
    while looks.count != count:
        count = looks.count
        time.sleep(0.4)


def test_the_first_use_after_a_pause_looks_before_it_answers(following: Following, looks: Looks) -> None:
    fall_idle(looks)
    count = looks.count
    assert not following.use()
    following.catch_up(30.0)
    assert looks.count > count
    assert following.use()


def test_use_wakes_nobody_who_looks_anyway() -> None:
    """Who asks would wait for the thread: it takes the interpreter's lock when that is let go of the next time."""
    asked = []

    def clock() -> float:
        asked.append(threading.current_thread().name)
        return time.monotonic()

    rhythm = Rhythm(interval_s=HOUR_S, idle_after_s=math.inf, fresh_s=math.inf, slow_s=HOUR_S, slow_first_s=HOUR_S)
    following = Following(lambda: None, lambda: None, rhythm, ignore, clock=clock)
    following.start()
    try:
        until_s = time.monotonic() + 30.0
        while asked.count("follow") < 2 and time.monotonic() < until_s:  # then it waits
            time.sleep(0.01)
        for _ in range(20):
            assert following.use()
        time.sleep(0.1)
        assert asked.count("follow") == 2
    finally:
        following.stop()


def test_catching_up_ends_at_its_deadline_and_the_next_does_not_wait_again(following: Following, looks: Looks) -> None:
    fall_idle(looks)
    looks.go_on.clear()
    began_s = time.monotonic()
    following.catch_up(0.3)
    assert 0.2 < time.monotonic() - began_s < 10.0
    began_s = time.monotonic()
    for _ in range(100):
        following.catch_up(0.3)
    assert time.monotonic() - began_s < 0.3, "it is still the same look that does not end"


def test_a_look_that_fails_is_told_and_does_not_keep_anybody(
    following: Following, looks: Looks, failures: list[ObjectCacheError]
) -> None:
    fall_idle(looks)
    looks.fails = True
    began_s = time.monotonic()
    following.catch_up(30.0)
    assert time.monotonic() - began_s < 10.0
    assert failures


def test_matches_after_a_pause_find_what_others_committed_in_it(tmp_path: Path) -> None:
    objects = MemoryStore()
    with ExitStack() as stack:
        caches = [LocalCache(open_beside(LatencyStore(objects, 0.005), tmp_path)) for _ in range(2)]
        for cache in caches:  # idle soon
            stack.enter_context(cache)
            cache.core.following.stop()
            cache.core.start_following(QUICK)
        namespace = new_namespace(flat_layout(2, 1000))
        for length in (2, 4, 6):
            chain = prompt(namespace, length)
            writer, reader = caches[length // 2 % 2], caches[1 - length // 2 % 2]
            retrieve_and_check(writer, namespace, chain)
            writer.commit([upload_part(writer, namespace, chain, FIRST, first=length - 2)])
            time.sleep(0.4)
            assert retrieve_and_check(reader, namespace, chain).tokens == length * 16
