"""Matching and resolving against brute force: random segments with branches, duplicates, gaps, several parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from objectcache.catalog import Catalog, Run, match
from objectcache.errors import KeyNotFoundError
from objectcache.keys import KeyChain
from objectcache.layout import MatchRule
from objectcache.logrecord import CommitEntry
from tests.catalog.world import Log, Segments, chain_of, hybrid_layout, namespace_of

NAMESPACE = namespace_of(hybrid_layout())
LAYOUT = NAMESPACE.layout
PARTS = [(0, 0), (0, 1), (1, 0), (2, 0)]

# Three prompts that branch off one another, and one that has nothing in common with them.
TEXTS = ("abcdefghijklmnopqrst", "abcdefgHIJKLMNOP", "abcdefgHIJKlmnopqr", "zyxw")
CHAINS = [chain_of(NAMESPACE, text) for text in TEXTS]

Stored = tuple[int, tuple[int, int], int, int, bool]
"""Chain, part, first, stop (in the part's chunks), whether it is still there."""


def coarse(chain: KeyChain, group: int) -> KeyChain:
    return chain.coarsen(LAYOUT.group(group).chunk_tokens // LAYOUT.key_tokens)


@st.composite
def stored_segments(draw: st.DrawFn) -> Stored:
    chain = draw(st.integers(0, len(CHAINS) - 1))
    part = draw(st.sampled_from(PARTS))
    length = len(coarse(CHAINS[chain], part[0]))
    first = draw(st.integers(0, length - 1))
    return chain, part, first, draw(st.integers(first + 1, length)), draw(st.integers(0, 4)) > 0


@dataclass
class World:
    """What a catalog was told, as brute force sees it."""

    entries: dict[str, CommitEntry]
    held: set[tuple[int, int, bytes]]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    with Catalog.open(tmp_path_factory.mktemp("oracle")) as catalog:
        yield catalog


def filled(catalog: Catalog, stored: Sequence[Stored]) -> World:
    catalog.reset()
    log, segments = Log(catalog), Segments(NAMESPACE)
    world = World({}, set())
    for chain, part, first, stop, stays in stored:
        entry = segments.entry(CHAINS[chain], first, stop, group=part[0], shard=part[1])
        log.commit(entry)
        if stays:
            world.entries[entry.name] = entry
            world.held.update((*part, key) for key in entry.header.keys)
        else:
            assert catalog.drop(entry.name)
    return world


def longest(world: World, chain: KeyChain, parts: Sequence[tuple[int, int]]) -> int:
    """Tokens of the longest prefix, by trying them all."""
    boundary = LAYOUT.boundary_tokens

    def holds(part: tuple[int, int], tokens: int) -> bool:
        group = LAYOUT.group(part[0])
        stop = tokens // group.chunk_tokens
        first = {MatchRule.PREFIX: 0, MatchRule.WINDOW: stop - group.window_chunks, MatchRule.STATE: stop - 1}
        keys = coarse(chain, part[0])[max(0, first[group.rule]) : stop]
        return len(keys) > 0 and all((*part, key) in world.held for key in keys)

    for tokens in range(len(chain) * 16 // boundary * boundary, 0, -boundary):
        if all(holds(part, tokens) for part in parts):
            return tokens
    return 0


def check_runs(world: World, runs: Sequence[Run], keys: KeyChain) -> None:
    """The runs hold exactly the chunks `keys`, in order."""
    found = [key for run in runs for key in world.entries[run.segment.name].header.keys[run.first : run.stop]]
    assert found == list(keys)
    assert all(run.stop > run.first for run in runs)


PROMPTS = st.tuples(st.integers(0, len(CHAINS) - 1), st.integers(0, 20))


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(stored_segments(), max_size=30), PROMPTS, st.lists(st.sampled_from(PARTS), unique=True, min_size=1))
def test_a_match_is_the_longest_there_is(
    shared: Catalog, stored: list[Stored], prompt: tuple[int, int], parts: list[tuple[int, int]]
) -> None:
    world = filled(shared, stored)
    chain = CHAINS[prompt[0]][: prompt[1]]
    found = match(shared, NAMESPACE, chain, parts)
    assert found.tokens == longest(world, chain, parts)
    if found.tokens:
        assert [part.part for part in found.parts] == parts
    for part in found.parts:
        group = LAYOUT.group(part.part[0])
        assert part.stop * group.chunk_tokens == found.tokens
        assert (
            part.first
            == {
                MatchRule.PREFIX: 0,
                MatchRule.WINDOW: max(0, part.stop - group.window_chunks),
                MatchRule.STATE: part.stop - 1,
            }[group.rule]
        )
        check_runs(world, part.runs, coarse(chain, part.part[0])[part.first : part.stop])


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(stored_segments(), max_size=30))
def test_a_match_of_one_part_reaches_to_the_first_gap(shared: Catalog, stored: list[Stored]) -> None:
    world = filled(shared, stored)
    for chain in CHAINS:
        for part in PARTS:
            keys = coarse(chain, part[0])
            held = next((at for at, key in enumerate(keys) if (*part, key) not in world.held), len(keys))
            check_runs(world, shared.match_part(keys, *part), keys[:held])


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(stored_segments(), min_size=1, max_size=30), st.data())
def test_resolving_finds_every_chunk_or_says_which_is_missing(
    shared: Catalog, stored: list[Stored], data: st.DataObject
) -> None:
    world = filled(shared, stored)
    chain, part, low, high, _ = data.draw(st.sampled_from(stored))
    keys = coarse(CHAINS[chain], part[0])
    stop = data.draw(st.integers(low + 1, high))
    first = data.draw(st.integers(0, stop - 1))
    missing = next((at for at in range(stop - 1, first - 1, -1) if (*part, keys[at]) not in world.held), None)
    if missing is None:
        check_runs(world, shared.resolve(NAMESPACE.digest, *part, keys[stop - 1], first, stop), keys[first:stop])
    else:
        with pytest.raises(KeyNotFoundError) as caught:
            shared.resolve(NAMESPACE.digest, *part, keys[stop - 1], first, stop)
        assert f"chunk {missing} " in str(caught.value)
