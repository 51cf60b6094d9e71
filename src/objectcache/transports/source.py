"""Frames of a plan, in delivery order, as ranges of open objects: what every sending side sends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

from objectcache.announcing import Announcements
from objectcache.errors import IntegrityError, ObjectChangedError, ObjectNotFoundError, RangeError, SegmentGoneError
from objectcache.frames import FRAME_HEADER_BYTES, MAX_FRAME_BYTES, PIECE, Frame, FrameType
from objectcache.integrity import LayerBinding
from objectcache.layout import DIGEST_BYTES, LayerRow, Span
from objectcache.plan import LayerRun, Plan
from objectcache.segment import CommittedLayer
from objectcache.stores import ObjectReader
from objectcache.transports.dealing import Dealing, Portion
from objectcache.transports.sockets import Body
from objectcache.transports.tapering import Tapering

MAX_TURN_BYTES = 4 << 20
"""More in one go, of all carriers together, would save nothing."""
LEAST_TURN_BYTES = 2 << 20
"""What each of several carriers may send in one go, where layers have as much for each stream."""


class Outgoing(NamedTuple):
    """`head` (frame header and further digests), then `data_bytes` of `reader` from `offset`: those of the frame, after
    `before_bytes` of them that go ahead of its head."""

    frame: Frame
    head: bytes
    reader: ObjectReader
    offset: int
    data_bytes: int
    before_bytes: int = 0

    @property
    def wire_bytes(self) -> int:
        return len(self.head) + self.data_bytes

    def cut(self, data_bytes: int) -> tuple[Outgoing, Outgoing]:
        """As two frames, the first of `data_bytes`, which are fewer than all."""
        frame, extra = self.frame, self.head[FRAME_HEADER_BYTES:]
        first = frame._replace(data_bytes=data_bytes)
        rest = frame._replace(data_bytes=frame.data_bytes - data_bytes, span_offset=frame.span_offset + data_bytes)
        return (
            Outgoing(first, first.encode() + extra, self.reader, self.offset, data_bytes),
            Outgoing(rest, rest.encode() + extra, self.reader, self.offset + data_bytes, rest.data_bytes),
        )

    def hold(self, data_bytes: int) -> Body:
        """`data_bytes` from its first on, at hand. Raises SegmentGoneError, IntegrityError, StoreError."""
        with _reading(self.reader.info.name):
            return Body(self.reader, self.offset, data_bytes)


@contextmanager
def _reading(segment: str) -> Iterator[None]:
    """Says of errors of the body which segment they are about."""
    try:
        yield
    except ObjectNotFoundError as error:
        raise SegmentGoneError(f"segment {segment} is gone from the store", segment=segment) from error
    except (IntegrityError, RangeError, ObjectChangedError) as error:
        raise IntegrityError(f"segment {segment} is damaged: {error}", segment=segment) from error


def spans_of(
    plan: Plan,
    readers: Mapping[str, ObjectReader],
    delivery: int,
    epoch: int,
    ahead: Announcements | None = None,
    dealing: Dealing | None = None,
) -> Iterator[list[Outgoing]]:
    """Spans in delivery order, each as its frames, which must stay in order on one stream. Reads the digest rows.

    `ahead` is told how far it is. `dealing` says which spans are wanted here; default: all. Raises SegmentGoneError,
    IntegrityError, StoreError when a digest row cannot be had as committed.
    """
    for layer_run in plan.layer_runs():
        if ahead is not None:
            ahead.advance(layer_run.row.row_bytes)
        for frames in _run_spans(plan, layer_run, readers[layer_run.run.segment], delivery, epoch, dealing):
            yield frames
            if ahead is not None:
                ahead.advance(sum(outgoing.frame.data_bytes for outgoing in frames))


def _run_spans(
    plan: Plan, layer_run: LayerRun, reader: ObjectReader, delivery: int, epoch: int, dealing: Dealing | None
) -> Iterator[list[Outgoing]]:
    run, position = layer_run.run, layer_run.position
    size = layer_run.row.slice_bytes
    cut: Sequence[tuple[Span, int, int]] = _cut(layer_run.row, run.first, run.stop)
    if dealing is not None:
        cut = [each for each in cut if dealing.deal((each[0].stop - each[0].first) * size)]
        if not cut:
            return
    part = plan.parts[layer_run.part]
    binding = LayerBinding(part.group, part.shard, layer_run.layer)
    committed = CommittedLayer(run.geometry, position, binding, run.leaf, run.row_digest(position))
    with _reading(run.segment):
        row = committed.read_row(reader)
    for span, begin, end in cut:
        digests = row[begin:end]
        extra = digests[DIGEST_BYTES:]
        count = span.stop - span.first
        base = run.geometry.slice_offset(position, span.first)
        frames = []
        for at in range(0, count * size, MAX_FRAME_BYTES):
            frame = Frame(
                FrameType.DATA,
                delivery,
                epoch,
                flags=0 if span.piece is None else PIECE,
                extra=len(extra) // DIGEST_BYTES,
                part=layer_run.part,
                layer=layer_run.layer,
                first_chunk=run.at + span.first - run.first,
                num_chunks=count,
                data_bytes=min(MAX_FRAME_BYTES, count * size - at),
                span_offset=at,
                unit=layer_run.unit,
                digest=digests[:DIGEST_BYTES],
            )
            frames.append(Outgoing(frame, frame.encode() + extra, reader, base + at, frame.data_bytes))
        yield frames


@lru_cache(maxsize=1024)
def _cut(row: LayerRow, first: int, stop: int) -> tuple[tuple[Span, int, int], ...]:
    """Spans, each with the byte range of its digests in the row; computed once, since layers are mostly alike."""
    return tuple((span, *row.digest_range(span)) for span in row.spans(first, stop))


def turn_bytes(plan: Plan, portion: Portion) -> int:
    """What a stream may send in one go of this plan: so much that every stream of the session has a part of each layer.

    What long turns save is the interpreter's time, of which several carriers have the more; what they cost is that the
    last of a layer comes late.
    """
    most_bytes = max(LEAST_TURN_BYTES, MAX_TURN_BYTES // portion.carriers)
    return max(MAX_FRAME_BYTES, min(most_bytes, plan.geometry.least_layer_bytes // portion.streams))


def tapering_of(plan: Plan, portion: Portion) -> Tapering:
    """Of what is sent here of the plan."""
    geometry, fraction = plan.geometry, portion.fraction
    layers = (layer for layer in geometry.order if layer >= plan.from_layer)
    wanted = (sum(geometry.wanted_bytes(part, layer) for part in geometry.parts_of(layer)) for layer in layers)
    return Tapering((layer_bytes * fraction for layer_bytes in wanted), portion.own_streams)


def wire_bytes(plan: Plan) -> int:
    """Bytes of all DATA frames of a plan: headers, further digests and data."""
    # Layers are mostly alike, and so are segments: few shapes make up a plan of thousands of runs.
    total = 0
    for part in plan.parts:
        held_chunks = part.shape.held_chunks
        layers = zip(part.shape.layers, part.shape.slice_bytes, strict=True)
        alike = {(size, held_chunks(layer)): layer for layer, size in layers if layer >= plan.from_layer}
        times = Counter(
            (size, held_chunks(layer))
            for layer, size in zip(part.shape.layers, part.shape.slice_bytes, strict=True)
            if layer >= plan.from_layer
        )
        for (size, held), layer in alike.items():
            runs = Counter((run.geometry.num_chunks, run.first, run.stop) for run in part.wanted_runs(layer))
            for (chunks, first, stop), run_times in runs.items():
                total += run_times * times[size, held] * _run_wire_bytes(LayerRow(chunks, size), first, stop)
    return total


def _run_wire_bytes(row: LayerRow, first: int, stop: int) -> int:
    total = 0
    for span in row.spans(first, stop):
        count = span.stop - span.first
        frames = -(-count * row.slice_bytes // MAX_FRAME_BYTES)
        extra = 0 if span.piece is not None else (count - 1) * DIGEST_BYTES
        total += count * row.slice_bytes + frames * (FRAME_HEADER_BYTES + extra)
    return total
