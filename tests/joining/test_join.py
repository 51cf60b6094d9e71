"""Joined segments are what would have been written at once; what is wrong with a source stops it, and is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectcache.errors import IntegrityError, LayoutError, ObjectExistsError, SegmentGoneError
from objectcache.integrity import seal
from objectcache.joining import JoinOrder, JoinSource, JoinStoppedError, join
from objectcache.keys import KeyChain
from objectcache.layout import PIECE_BYTES
from objectcache.names import segment_name
from objectcache.segment import SegmentHeader, SegmentReader
from objectcache.stores import MemoryStore
from tests.segments import encode, make_header, random_chain, random_layers, read_all

NEW = segment_name("new", 1)


class Whole:
    """A segment, and the same chunks in several, in a store."""

    def __init__(self, cuts: Sequence[int], num_chunks: int, slice_bytes: Sequence[int]) -> None:
        self.store = MemoryStore(1 << 30)
        layers = [2 * number for number in range(len(slice_bytes))]
        self.header = make_header(num_chunks=num_chunks, layers=layers, slice_bytes=slice_bytes, name=NEW)
        self.data, self.row_digests = encode(self.header, random_layers(self.header))
        self.sources = []
        for number, (first, stop) in enumerate(zip([0, *cuts], [*cuts, num_chunks], strict=True)):
            self.sources.append(self._put(segment_name("old", number + 1), first, stop))
        self.order = JoinOrder(NEW, tuple(self.sources))

    def _put(self, name: str, first: int, stop: int) -> JoinSource:
        whole = self.header
        header = replace(
            whole,
            name=name,
            depth=whole.depth + first,
            parent=whole.keys[first - 1] if first else whole.parent,
            keys=whole.keys[first:stop],
        )
        layers = [
            data[first * size : stop * size] for data, size in zip(random_layers(whole), whole.slice_bytes, strict=True)
        ]
        data, digests = encode(header, layers)
        self.store.put(name, data)
        return source_of(header, digests)


def source_of(header: SegmentHeader, digests: Sequence[bytes]) -> JoinSource:
    return JoinSource(
        name=header.name,
        num_chunks=header.num_chunks,
        depth=header.depth,
        parent=header.parent,
        leaf=header.leaf,
        header_bytes=len(header.encoded),
        total_bytes=header.total_bytes,
        packed_row_digests=b"".join(digests),
    )


@st.composite
def wholes(draw: st.DrawFn) -> Whole:
    num_chunks = draw(st.integers(2, 8))
    cuts = draw(st.sets(st.integers(1, num_chunks - 1), min_size=1))
    # Slices of which many are a piece, a few, and one.
    sizes = st.sampled_from([40, 1000, PIECE_BYTES // 5, PIECE_BYTES])
    return Whole(sorted(cuts), num_chunks, draw(st.lists(sizes, min_size=1, max_size=2)))


@settings(max_examples=15, deadline=None)
@given(wholes())
def test_the_same_bytes_as_if_it_had_been_written_at_once(whole: Whole) -> None:
    joined = join(whole.store, JoinOrder.from_wire(whole.order.to_wire()))
    assert whole.store.get(NEW) == whole.data
    assert joined.row_digests == whole.row_digests
    assert joined.header == whole.header
    SegmentReader(whole.store.open(NEW), joined.header, joined.row_digests).verify()


def test_memory_is_a_window_of_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Consecutive layers of a segment are one read while they fit; a layer that does not is read all the same."""
    monkeypatch.setattr("objectcache.joining.segments.WINDOW_BYTES", 2 * 6 * 1000)
    whole = Whole([2, 4], 6, [1000, 1000, 1000, 1000, 4000])
    windows: list[int] = []
    join(whole.store, whole.order, windows.append)
    assert whole.store.get(NEW) == whole.data
    assert [round(window / 6000) for window in windows] == [3, 3, 4], "two layers, two, and one; with rows and padding"


@pytest.mark.parametrize("part", ["header", "row", "slices"])
def test_a_damaged_source_is_named_and_nothing_is_left(part: str) -> None:
    whole = Whole([2, 4], 6, [1000, 1000])
    victim = whole.sources[1].name
    data = bytearray(whole.store.get(victim))
    with whole.store.open(victim) as source:
        geometry = SegmentReader.open(source).header.geometry
    at = {"header": 40, "row": geometry.row_offset(1) + 3, "slices": geometry.slice_offset(1, 1) + 999}[part]
    data[at] ^= 1
    whole.store.put(victim, data)
    with pytest.raises(IntegrityError) as raised:
        join(whole.store, whole.order)
    assert raised.value.segment == victim
    assert [info.name for info in whole.store.list()] == [source.name for source in whole.sources]


def test_a_whole_header_that_was_not_committed_is_damage() -> None:
    """Keys that are others', under digests that are right in themselves."""
    whole = Whole([2, 4], 6, [1000])
    victim = whole.sources[1]
    data = whole.store.get(victim.name)
    encoded = data[: victim.header_bytes - 16]
    with whole.store.open(victim.name) as source:
        keys = SegmentReader.open(source).header.keys
    at = encoded.index(keys.data)
    other = random_chain(9, 1).data + keys.data[32:]
    whole.store.put(victim.name, seal(encoded[:at] + other + encoded[at + 64 :]) + data[victim.header_bytes :])
    with pytest.raises(IntegrityError) as raised:
        join(whole.store, whole.order)
    assert raised.value.segment == victim.name


def test_a_source_that_is_gone_is_named() -> None:
    whole = Whole([2, 4], 6, [1000])
    whole.store.delete(whole.sources[2].name)
    with pytest.raises(SegmentGoneError) as raised:
        join(whole.store, whole.order)
    assert raised.value.segment == whole.sources[2].name


def test_a_source_that_is_cut_short_is_damage() -> None:
    whole = Whole([2, 4], 6, [1000])
    name = whole.sources[0].name
    whole.store.put(name, whole.store.get(name)[:-600])
    with pytest.raises(IntegrityError):
        join(whole.store, whole.order)


@pytest.mark.parametrize("wrong", ["order", "gap", "other"])
def test_only_what_follows_each_other_is_joined(wrong: str) -> None:
    whole = Whole([2, 4], 6, [1000])
    first, second, third = whole.sources
    if wrong == "other":
        header = make_header(num_chunks=2, layers=[0], slice_bytes=[500], name=segment_name("old", 9), depth=7)
        header = replace(header, parent=whole.header.keys[1], keys=KeyChain(whole.header.keys.data[64:128]))
        data, digests = encode(header, random_layers(header))
        whole.store.put(header.name, data)
        second = source_of(header, digests)
    sources = {"order": (second, first), "gap": (first, third), "other": (first, second)}[wrong]
    with pytest.raises(LayoutError):
        join(whole.store, JoinOrder(NEW, sources))


def test_whoever_paces_it_may_stop_it() -> None:
    whole = Whole([2, 4], 6, [1000])

    def stop(read_bytes: int) -> None:
        raise JoinStoppedError

    with pytest.raises(JoinStoppedError):
        join(whole.store, whole.order, stop)
    assert NEW not in {info.name for info in whole.store.list()}


def test_a_name_that_is_taken_is_not_written_over() -> None:
    whole = Whole([2, 4], 6, [1000])
    join(whole.store, whole.order)
    with pytest.raises(ObjectExistsError):
        join(whole.store, whole.order)
    with whole.store.open(NEW) as source:
        assert read_all(SegmentReader.open(source, NEW)) == random_layers(whole.header)
