"""Spans, dealt out to workers that do not ask each other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from objectcache.transports.dealing import MOST_CARRIERS, Dealing, Portion


@st.composite
def shapes(draw: st.DrawFn) -> list[Portion]:
    """The portions of all carriers of a session."""
    streams = draw(st.integers(1, 20))
    carriers = draw(st.integers(1, min(streams, MOST_CARRIERS)))
    return [Portion(streams, carriers, carrier) for carrier in range(carriers)]


SPANS = st.lists(st.integers(1, 1 << 20), max_size=200)


@given(shapes(), SPANS)
def test_every_span_is_sent_by_one(portions: list[Portion], spans: list[int]) -> None:
    dealings = [Dealing(portion) for portion in portions]
    for span_bytes in spans:
        assert [dealing.deal(span_bytes) for dealing in dealings].count(True) == 1


@given(shapes(), SPANS)
def test_at_any_moment_streams_have_been_given_alike(portions: list[Portion], spans: list[int]) -> None:
    dealings, given_bytes = [Dealing(portion) for portion in portions], [0] * len(portions)
    for span_bytes in spans:
        for carrier, dealing in enumerate(dealings):
            given_bytes[carrier] += span_bytes if dealing.deal(span_bytes) else 0
        loads = [sent / portion.own_streams for sent, portion in zip(given_bytes, portions, strict=True)]
        assert max(loads) - min(loads) <= max(spans) + 1e-6


def test_large_and_small_spans_in_turn_are_not_one_carriers_and_anothers() -> None:
    dealing, given_bytes = Dealing(Portion(2, 2, 0)), 0
    for _ in range(100):
        given_bytes += sum(span_bytes for span_bytes in (1 << 20, 1 << 10) if dealing.deal(span_bytes))
    assert abs(given_bytes - 50 * ((1 << 20) + (1 << 10))) <= 1 << 20


@given(shapes())
def test_portions_are_a_whole(portions: list[Portion]) -> None:
    assert sum(portion.own_streams for portion in portions) == portions[0].streams
    assert abs(sum(portion.fraction for portion in portions) - 1) < 1e-9
    owners = [stream % len(portions) for stream in range(portions[0].streams)]
    assert [owners.count(portion.carrier) for portion in portions] == [portion.own_streams for portion in portions]
