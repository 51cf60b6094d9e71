"""What a worker WRITEs straight out of the store's files, and what it copies first."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from objectcache.errors import DeliveryError
from objectcache.pages import FileWindow
from objectcache.stores import FileStore
from objectcache.transports.nixl import Agent, Region
from objectcache.transports.nixl.flights import Flights
from objectcache.transports.shared_memory import MappedPiece, mapped_files
from tests.nixl.test_sending import SEGMENTS, World, check


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FileStore]:
    with FileStore(tmp_path) as made:
        yield made


@pytest.fixture
def took_slots(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Of every slot that is taken: by whom."""
    from objectcache.transports.nixl.arena import Slots

    taken: list[object] = []
    slot = Slots.slot

    def counted(self: Slots, holder: object, timeout_s: float) -> object:
        taken.append(holder)
        return slot(self, holder, timeout_s)

    monkeypatch.setattr(Slots, "slot", counted)
    return taken


def deliver(world: World) -> None:
    number, view, told = world.deliver()
    check(world, view, told, number)


def test_files_in_the_page_cache_are_not_copied(store: FileStore, took_slots: list[object]) -> None:
    world = World(store)
    for _ in range(3):
        deliver(world)
        assert world.writer.agent.usage == (1 + SEGMENTS, 1, 0), "each is registered once"
    assert not took_slots
    world.writer.close_idle(time.monotonic())
    assert world.writer.agent.usage[0] == 1 + SEGMENTS, "they are kept a while"
    world.writer.close_idle(time.monotonic() + mapped_files.IDLE_S + 1)
    assert world.writer.agent.usage[0] == 1
    assert world.writer.registered.mapped_bytes == 0
    deliver(world)
    world.close()


def test_what_is_registered_is_bounded(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """And WRITEs over several windows arrive whole."""
    monkeypatch.setattr(mapped_files, "WINDOW_BYTES", 1 << 18)
    monkeypatch.setattr(mapped_files, "MAX_WINDOWS", 4)
    world = World(store)
    most = 0
    for _ in range(3):
        deliver(world)
        most = max(most, world.writer.agent.usage[0])
    # Beside the bound there are those that two WRITEs of up to a slice of 300,000 bytes and 4 MiB have in use.
    assert 1 < most <= 1 + 2 * 17 + 4
    world.close()


def test_files_that_are_not_in_the_page_cache_go_by_the_arena(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, took_slots: list[object]
) -> None:
    world = World(store)
    monkeypatch.setattr(FileWindow, "resident", lambda self, offset, length: False)
    deliver(world)
    assert took_slots
    world.close()


def test_networks_that_take_no_memory_of_files(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, took_slots: list[object], caplog: pytest.LogCaptureFixture
) -> None:
    world = World(store)

    def refuse(self: Agent, region: Region) -> None:
        raise DeliveryError("NIXL: registering: not that")

    with monkeypatch.context() as patch:
        patch.setattr(Agent, "register", refuse)
        deliver(world)
        assert took_slots
        assert world.writer.registered.mapped_bytes == 0
    deliver(world)
    assert world.writer.agent.usage[0] == 1, "it is not tried again"
    assert sum("none can be registered" in record.message for record in caplog.records) == 1
    world.close()


def test_segments_that_are_deleted_meanwhile(store: FileStore) -> None:
    world = World(store)
    deliver(world)
    number, view, told = world.deliver()
    for name in list(world.prefix.plan.segment_bytes):
        store.delete(name)
    check(world, view, told, number)
    world.close()


# -- the agent's thread -----------------------------------------------------------------------------


def test_what_goes_wrong_is_raised_for_who_asked() -> None:
    agent = Agent("one")
    flights = Flights(agent, lambda: False)
    assert flights.ask(lambda agent: agent.name) == "one"
    with pytest.raises(ZeroDivisionError):
        flights.ask(lambda agent: 1 // 0)
    with pytest.raises(DeliveryError):
        flights.write([MappedPiece(0, 1)], "two", Region(4096, 1), 0, b"")
    assert flights.ask(lambda agent: threading.current_thread().name) == "nixl-progress"
    flights.close()
    with pytest.raises(DeliveryError):
        flights.ask(lambda agent: agent.name)
    assert agent.usage == (0, 0, 0)
    agent.close()


def test_many_ask_at_once() -> None:
    agent = Agent("one")
    flights = Flights(agent, lambda: True)
    got: list[int] = []

    def ask(number: int) -> None:
        for at in range(100):
            got.append(flights.ask(lambda agent: 100 * number + at))  # noqa: B023 - it is asked before the next

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(400))
    flights.close()
    agent.close()


def test_errors_in_logging_are_shown_as_before() -> None:
    code = "import logging; from objectcache.transports.nixl import Agent; Agent('one'); assert logging.raiseExceptions"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
