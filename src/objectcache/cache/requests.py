"""What to ask a store that is far away for, to deliver a plan: few ranges, in delivery order. Pure.

A request costs a round trip, whatever its size, and many are under way at once. So
- a layer's digest row and slices are one range, as are neighbouring layers of a segment where they are small,
- a large layer is cut between digest pieces, for many connections to work on the layer that is needed next,
- what is fetched together grows from the first layer on, which is never kept waiting for others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from objectcache.plan import LayerRun, Plan

PIECE_BYTES = 4 << 20
"""About what one request should be of: connections are then busy for much longer than they wait."""
LIMIT_BYTES = 2 * PIECE_BYTES
"""No request is larger, unless a single slice with its digest row is."""
GAP_BYTES = 1 << 20
"""Reading so much that nobody wants costs less than another request."""
MAX_BYTES = LIMIT_BYTES - GAP_BYTES
"""What requests are planned to be of at most, without digest rows and gaps."""
FIRST_BYTES = 1 << 20
"""What is fetched first, if the first layer is less. All of it comes at once where that is at most MAX_BYTES."""
FIRST_REQUESTS = 16
"""How many the first layer is cut into, if it is large enough for pieces of FIRST_BYTES, and how many are begun with:
more would be later layers', and take their share of the network from the first one's."""
SMALL_BYTES = 512 << 10
"""Below this, requests are made larger although later layers are then waited for together."""
TOGETHER_BYTES = 32 << 20
"""Layers are not fetched together beyond this, unless requests would be small."""


@dataclass(frozen=True, slots=True)
class Content:
    """Chunks [first, stop) of the layer run that is number `index` of the plan; `row`: its digest row before them.

    Chunks are counted within the segment. A row may come alone: then `first == stop`.
    """

    index: int
    layer_run: LayerRun
    first: int
    stop: int
    row: bool

    @property
    def slices_at(self) -> int:
        """Offset of the slices in the segment."""
        return self.layer_run.run.geometry.slice_offset(self.layer_run.position, self.first)

    @property
    def slices_bytes(self) -> int:
        return (self.stop - self.first) * self.layer_run.row.slice_bytes

    @property
    def row_at(self) -> int:
        """Offset of the digest row in the segment."""
        return self.layer_run.run.geometry.row_offset(self.layer_run.position)

    @property
    def begin(self) -> int:
        return self.row_at if self.row else self.slices_at

    @property
    def end(self) -> int:
        if self.first == self.stop:
            return self.row_at + self.layer_run.row.row_bytes
        return self.slices_at + self.slices_bytes

    @property
    def wanted_bytes(self) -> int:
        return self.slices_bytes + (self.layer_run.row.row_bytes if self.row else 0)


@dataclass(frozen=True, slots=True)
class Request:
    """Bytes [begin, end) of a segment, and what in them is wanted, in the order in which it lies there."""

    segment: str
    contents: tuple[Content, ...]

    @property
    def begin(self) -> int:
        return self.contents[0].begin

    @property
    def end(self) -> int:
        return self.contents[-1].end

    @property
    def length(self) -> int:
        return self.end - self.begin


def plan_requests(plan: Plan) -> Iterator[Request]:
    """Requests that bring every wanted slice, and every digest row, once. In the order in which they are needed."""
    index = 0
    short = plan.payload_bytes <= MAX_BYTES
    for units in _fetched_together(plan):
        # The engine waits for the first layer: all connections work on it.
        piece_bytes = PIECE_BYTES if index or short else _first_piece_bytes(chain.from_iterable(units))
        # By run, each with its layers: what may become one request.
        runs: dict[tuple[int, int], list[Content]] = {}
        for layer_run in chain.from_iterable(units):
            contents = runs.setdefault((layer_run.part, layer_run.run.at), [])
            contents += _contents(index, layer_run, piece_bytes)
            index += 1
        merged = [request for contents in runs.values() for request in _merged(contents)]
        yield from sorted(merged, key=lambda request: request.contents[0].index)


def _fetched_together(plan: Plan) -> Iterator[Sequence[Sequence[LayerRun]]]:
    """Units, of which each is the layer runs it takes, in groups that are fetched together."""
    together: list[list[LayerRun]] = []
    short = plan.payload_bytes <= MAX_BYTES
    limit = 0  # how many units the group may have; 0: it is the first
    held_bytes = 0
    for unit in _units(plan):
        unit_bytes = sum(_slices_bytes(layer_run) for layer_run in unit)
        if limit:
            joins = len(together) < limit and _joins(held_bytes, unit_bytes, len(unit))
        else:
            joins = short or held_bytes + unit_bytes <= FIRST_BYTES
        if together and not joins:
            yield together
            limit = 2 * len(together)
            together, held_bytes = [], 0
        together.append(unit)
        held_bytes += unit_bytes
    if together:
        yield together


def _joins(held_bytes: int, unit_bytes: int, num_runs: int) -> bool:
    """Whether a unit is fetched together with those before it, which have `held_bytes` in `num_runs` runs."""
    if held_bytes + unit_bytes > MAX_BYTES * num_runs:
        return False
    return held_bytes + unit_bytes <= TOGETHER_BYTES or held_bytes < SMALL_BYTES * num_runs


def _units(plan: Plan) -> Iterator[list[LayerRun]]:
    unit: list[LayerRun] = []
    for layer_run in plan.layer_runs():
        if unit and unit[0].unit != layer_run.unit:
            yield unit
            unit = []
        unit.append(layer_run)
    if unit:
        yield unit


def _first_piece_bytes(layer_runs: Iterable[LayerRun]) -> int:
    return min(PIECE_BYTES, max(FIRST_BYTES, sum(map(_slices_bytes, layer_runs)) // FIRST_REQUESTS))


def _slices_bytes(layer_run: LayerRun) -> int:
    return (layer_run.run.stop - layer_run.run.first) * layer_run.row.slice_bytes


def _contents(index: int, layer_run: LayerRun, piece_bytes: int) -> Iterator[Content]:
    """A layer run as it may be asked for: a row that is far from the slices by itself, slices in pieces."""
    run, row = layer_run.run, layer_run.row
    first, has_row = run.first, True
    if run.first * row.slice_bytes > GAP_BYTES:
        yield Content(index, layer_run, run.first, run.first, row=True)
        has_row = False
    whole = _slices_bytes(layer_run) <= piece_bytes * 3 // 2
    for span in layer_run.spans():
        if span.stop == run.stop or (not whole and (span.stop - first) * row.slice_bytes >= piece_bytes):
            yield Content(index, layer_run, first, span.stop, row=has_row)
            first, has_row = span.stop, False


def _merged(contents: Sequence[Content]) -> Iterator[Request]:
    """Contents of one segment, in delivery order, joined where they lie close to each other."""
    held: list[Content] = []
    held_bytes = 0
    for content in contents:
        if held and not _continues(held, held_bytes, content):
            yield Request(content.layer_run.run.segment, tuple(held))
            held, held_bytes = [], 0
        held.append(content)
        held_bytes += content.wanted_bytes
    if held:
        yield Request(held[0].layer_run.run.segment, tuple(held))


def _continues(held: Sequence[Content], held_bytes: int, content: Content) -> bool:
    gap = content.begin - held[-1].end
    if not 0 <= gap <= min(GAP_BYTES, held_bytes) or held[-1].index == content.index:
        return False
    return content.end - held[0].begin <= LIMIT_BYTES
