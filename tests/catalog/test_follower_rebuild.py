"""Whatever gateways do, in whatever order: a catalog from snapshots and trimmed logs is the one from all records."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import islice
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from objectcache.catalog import Catalog, Follower, SegmentRecord
from objectcache.commitlog import LogTrimmedError, Replacement
from objectcache.integrity import Buffer
from objectcache.keys import KeyChain
from objectcache.names import LOG_PREFIX
from objectcache.stores import MemoryStore, ObjectInfo
from tests.catalog.world import Segments, chain_of, content, namespace_of, simple_layout

NAMESPACE = namespace_of(simple_layout(shards=2))
CHAINS = [chain_of(NAMESPACE, text) for text in ("abcdefgh", "abcdEFGH", "xyz")]
GATEWAYS = st.integers(0, 2)


class KeepsLogs(MemoryStore):
    """A store whose log records are also written to `archive`, which nobody trims."""

    def __init__(self) -> None:
        super().__init__()
        self.archive = MemoryStore()

    def put(self, name: str, data: Buffer, **options: Any) -> ObjectInfo:
        info = super().put(name, data, **options)
        if name.startswith(LOG_PREFIX):
            self.archive.put(name, data, if_absent=True)
        return info


class Gateways(RuleBasedStateMachine):
    """Three gateways on one store, and two catalogs to build anew."""

    def __init__(self, catalogs: list[Catalog]) -> None:
        super().__init__()
        for catalog in catalogs:
            catalog.reset()
        self.store = KeepsLogs()
        self.gateways = [(catalog, Follower(self.store, catalog)) for catalog in catalogs[:3]]
        self.rebuilt = catalogs[3:]

    def visible(self, gateway: int) -> list[SegmentRecord]:
        return list(self.gateways[gateway][0].segments())

    @rule(gateway=GATEWAYS, keys=st.sampled_from(CHAINS), shard=st.integers(0, 1), data=st.data())
    def commit(self, gateway: int, keys: KeyChain, shard: int, data: st.DataObject) -> None:
        catalog, follower = self.gateways[gateway]
        first = data.draw(st.integers(0, len(keys) - 1))
        stop = data.draw(st.integers(first + 1, len(keys)))
        name = catalog.next_segment_name()
        follower.append([Segments(NAMESPACE).entry(keys, first, stop, shard=shard, name=name)])

    @precondition(lambda self: any(self.visible(gateway) for gateway in range(3)))
    @rule(gateway=GATEWAYS, data=st.data())
    def delete(self, gateway: int, data: st.DataObject) -> None:
        if visible := self.visible(gateway):
            gone = data.draw(st.lists(st.sampled_from(visible), min_size=1, max_size=3, unique_by=lambda item: item.id))
            self.gateways[gateway][1].append(deletes=[record.name for record in gone])

    @precondition(lambda self: any(self.visible(gateway) for gateway in range(3)))
    @rule(gateway=GATEWAYS, data=st.data())
    def merge(self, gateway: int, data: st.DataObject) -> None:
        catalog, follower = self.gateways[gateway]
        if visible := self.visible(gateway):
            old = data.draw(st.sampled_from(visible))
            new = Segments(NAMESPACE).entry(CHAINS[0], 0, 8, name=catalog.next_segment_name())
            follower.append([new], replaces=[Replacement((old.name,), (new.name,))])

    @precondition(lambda self: any(self.visible(gateway) for gateway in range(3)))
    @rule(gateway=GATEWAYS, data=st.data())
    def drop(self, gateway: int, data: st.DataObject) -> None:
        """A gateway met a 404: it forgets the segment, and then says so."""
        catalog, follower = self.gateways[gateway]
        if visible := self.visible(gateway):
            record = data.draw(st.sampled_from(visible))
            catalog.drop(record.name)
            follower.append(deletes=[record.name])
            catalog.sweep(5)

    @rule(gateway=GATEWAYS)
    def poll(self, gateway: int) -> None:
        self.gateways[gateway][1].poll()

    @rule(gateway=GATEWAYS, records=st.integers(1, 3))
    def poll_a_little(self, gateway: int, records: int) -> None:
        """Some of what is new, which may be a removal without the commit that it removes."""
        catalog, follower = self.gateways[gateway]
        with suppress(LogTrimmedError):
            catalog.apply(islice(follower.log.follow(catalog.positions()), records))

    @rule(gateway=GATEWAYS)
    def snapshot(self, gateway: int) -> None:
        with suppress(LogTrimmedError):
            self.gateways[gateway][1].snapshot()

    @rule()
    def compare(self) -> None:
        states = []
        for catalog, store in zip(self.rebuilt, (self.store, self.store.archive), strict=True):
            catalog.reset()
            Follower(store, catalog).poll()
            states.append(content(catalog))
        for catalog, follower in self.gateways:
            follower.poll()
            states.append(content(catalog))
        assert all(state == states[0] for state in states)
        assert states[0]["waiting"] == []

    def teardown(self) -> None:
        self.compare()


@pytest.fixture
def catalogs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Catalog]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Catalog.open(tmp_path_factory.mktemp("catalog"))) for _ in range(5)]


def test_a_rebuilt_catalog_is_the_same(catalogs: list[Catalog]) -> None:
    class OnThese(Gateways):
        def __init__(self) -> None:
            super().__init__(catalogs)

    run_state_machine_as_test(OnThese, settings=settings(max_examples=40, stateful_step_count=40, deadline=None))
