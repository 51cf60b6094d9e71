"""What is placed in a client's memory: runs of whole spans, in delivery order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from typing import NamedTuple

from objectcache.announcing import Announcements
from objectcache.errors import IntegrityError
from objectcache.frames import MAX_EXTRA_DIGESTS, PIECE, Frame, FrameType
from objectcache.integrity import LayerBinding
from objectcache.layout import DIGEST_BYTES, LayerRow, Span, piece_chunks
from objectcache.plan import LayerRun, Plan
from objectcache.segment import CommittedLayer
from objectcache.stores import FileRange, ObjectReader
from objectcache.transports.dealing import Dealing, Portion
from objectcache.transports.shared_memory.mapped_files import MappedFiles, MappedPiece
from objectcache.transports.sockets import Body
from objectcache.transports.source import Outgoing, _reading, turn_bytes

PLACED_BYTES = 8 << 20
"""At most, where slices are smaller: a millisecond's copying, so that nothing waits long behind it, and few words for
many bytes: each wakes a thread of the client, on a core that could copy."""
SPREAD_BYTES = 4 << 20
"""At least, where several carriers share layers that have so much for each: all threads of a process pass one
interpreter lock around for each placement, however small, and few that copy use up the memory's bandwidth."""


class PlacedBytes(NamedTuple):
    """What a placement has at most, of the first layer and of the others."""

    first: int
    other: int


ALONE = PlacedBytes(PLACED_BYTES, PLACED_BYTES)
"""Where one carrier places all: it has few threads."""


def placed_bytes(plan: Plan, portion: Portion) -> PlacedBytes:
    """Of several carriers all have a part of each layer that is large enough. All their streams have one of the first,
    for which the receiver waits; behind it so few bytes each would take longer to order than to copy."""
    if portion.carriers == 1:
        return ALONE
    first, layer_bytes = turn_bytes(plan, portion), plan.geometry.least_layer_bytes
    # They are dealt out by streams: where carriers have different numbers of them, larger ones would leave some out.
    shares = portion.streams if portion.streams % portion.carriers else portion.carriers
    other = max(first, layer_bytes // portion.streams, min(SPREAD_BYTES, layer_bytes // shares))
    return PlacedBytes(first, min(PLACED_BYTES, other))


class PlacingBody(Body):
    """Bytes that are copied into memory instead of sent."""

    def place(self, out: memoryview, files: MappedFiles) -> None:
        """Fill `out` with what comes next. Raises IntegrityError, StoreError."""
        if self._ranges is None:
            out[:] = self._data[self._used : self._used + len(out)]
            self._used += len(out)
            return
        for file in self._next(self._ranges, len(out)):
            with self._whole():
                files.copy(file, out[: file.length])
            out = out[file.length :]

    def hold_mapped(self, data_bytes: int, files: MappedFiles, stack: ExitStack) -> list[MappedPiece] | None:
        """Where so many bytes, which come next, lie mapped until `stack` ends; None where they do not, and are still to
        be placed. Raises IntegrityError, StoreError."""
        if self._ranges is None:
            return None
        before, pieces = (self._at, self._used), list[MappedPiece]()
        try:
            for file in self._next(self._ranges, data_bytes):
                with self._whole():
                    found = files.hold(file, stack)
                if found is None:
                    self._at, self._used = before
                    return None
                pieces += found
        except BaseException:
            self._at, self._used = before  # whoever can do without goes on from there
            raise
        return pieces

    def _next(self, ranges: Sequence[FileRange], data_bytes: int) -> Iterator[FileRange]:
        while data_bytes:
            file = ranges[self._at]
            length = min(data_bytes, file.length - self._used)
            yield FileRange(file.descriptor, file.offset + self._used, length)
            data_bytes, self._used = data_bytes - length, self._used + length
            if self._used == file.length:
                self._at, self._used = self._at + 1, 0

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Says of a file that is too short which object's it is."""
        try:
            yield
        except IntegrityError as error:
            raise IntegrityError(f"{self._name} is truncated: {error}", segment=self._name) from error


class Placement(Outgoing):
    """`data_bytes` of `reader` from `offset`, and then `head`, which tells that all of the frame's are in place."""

    __slots__ = ()

    def cut(self, data_bytes: int) -> tuple[Placement, Placement]:
        """As two steps, of which only the second has a head."""
        return (
            self._replace(head=b"", data_bytes=data_bytes),
            self._replace(
                offset=self.offset + data_bytes,
                data_bytes=self.data_bytes - data_bytes,
                before_bytes=self.before_bytes + data_bytes,
            ),
        )

    def hold(self, data_bytes: int) -> PlacingBody:
        with _reading(self.reader.info.name):
            return PlacingBody(self.reader, self.offset, data_bytes)


def placements_of(
    plan: Plan,
    readers: Mapping[str, ObjectReader],
    delivery: int,
    epoch: int,
    ahead: Announcements | None = None,
    dealing: Dealing | None = None,
    most: PlacedBytes = ALONE,
) -> Iterator[list[Outgoing]]:
    """As `transports.source.spans_of`: each list is one placement, of at most `most` bytes if a piece is not larger."""
    first_layer = next(layer for layer in plan.geometry.order if layer >= plan.from_layer)
    for layer_run in plan.layer_runs():
        if ahead is not None:
            ahead.advance(layer_run.row.row_bytes)
        reader = readers[layer_run.run.segment]
        most_bytes = most.first if layer_run.layer == first_layer else most.other
        for placement in _run_placements(plan, layer_run, reader, delivery, epoch, dealing, most_bytes):
            yield [placement]
            if ahead is not None:
                ahead.advance(placement.frame.data_bytes)


def _run_placements(
    plan: Plan,
    layer_run: LayerRun,
    reader: ObjectReader,
    delivery: int,
    epoch: int,
    dealing: Dealing | None,
    most_bytes: int,
) -> Iterator[Placement]:
    run, position, layer = layer_run.run, layer_run.position, layer_run.row
    placed = list(together(layer, layer_run.spans(), most_bytes))
    if dealing is not None:
        placed = [each for each in placed if dealing.deal((each[1] - each[0]) * layer.slice_bytes)]
        if not placed:
            return
    part = plan.parts[layer_run.part]
    binding = LayerBinding(part.group, part.shard, layer_run.layer)
    committed = CommittedLayer(run.geometry, position, binding, run.leaf, run.row_digest(position))
    with _reading(run.segment):
        row = committed.read_row(reader)
    for first, stop, digests in placed:
        piece = digests.stop <= layer.num_pieces
        found = row[digests.start * DIGEST_BYTES : digests.stop * DIGEST_BYTES]
        frame = Frame(
            FrameType.PLACED,
            delivery,
            epoch,
            flags=PIECE if piece else 0,
            extra=len(digests) - 1,
            part=layer_run.part,
            layer=layer_run.layer,
            first_chunk=run.at + first - run.first,
            num_chunks=stop - first,
            data_bytes=(stop - first) * layer.slice_bytes,
            span_offset=piece_chunks(layer.slice_bytes) if piece else 1,
            unit=layer_run.unit,
            digest=found[:DIGEST_BYTES],
        )
        head = frame.encode() + found[DIGEST_BYTES:]
        yield Placement(frame, head, reader, run.geometry.slice_offset(position, first), frame.data_bytes)


def together(row: LayerRow, spans: Iterator[Span], most_bytes: int = PLACED_BYTES) -> Iterator[tuple[int, int, range]]:
    """Chunks [first, stop) that are placed together, and which of the row's digests are theirs.

    All of pieces, or all of slices; at most `most_bytes`, or a single piece or slice that is larger.
    """
    per_piece = piece_chunks(row.slice_bytes)
    for whole, some in groupby(spans, lambda span: span.piece is not None):
        found = list(some)
        first, stop = found[0].first, found[-1].stop
        step = max(1, most_bytes // row.slice_bytes)
        if whole:
            step = max(1, step // per_piece) * per_piece
        step = min(step, (MAX_EXTRA_DIGESTS + 1) * (per_piece if whole else 1))
        for at in range(first, stop, step):
            until = min(stop, at + step)
            if whole:
                yield at, until, range(at // per_piece, -(-until // per_piece))
            else:
                yield at, until, range(row.num_pieces + at, row.num_pieces + until)
