"""Explanations as tables and sentences."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from objectcache.cache.explain import (
    Explanation,
    Inspection,
    KeyInspection,
    LayerVerdict,
    Listing,
    NamespaceInspection,
    Reason,
    SegmentInspection,
)
from objectcache.cache.explain.results import FieldDifference, NamespaceInfo, PartState, SegmentInfo
from objectcache.cache.explain.words import plural

SHOWN_DIGITS = 12
NONE = "–"
_AGES = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


def size(count_bytes: int) -> str:
    amount = float(count_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def ago(time_s: float | None) -> str:
    if time_s is None:
        return NONE
    age_s = max(0.0, time.time() - time_s)
    return next((f"{age_s / unit:.0f} {name} ago" for unit, name in _AGES if age_s >= unit), "just now")


def _table(*columns: str) -> Table:
    """A column whose name begins with ">" holds numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
    return table


def _heading(text: str) -> list[RenderableType]:
    """Not a table's title: that would be no wider than the table."""
    return [Text(), Text(text, style="italic")]


def _fields(items: Iterable[tuple[str, str]]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in items:
        table.add_row(name, value or NONE)
    return table


# -- ls -----------------------------------------------------------------------------------------------


def listing_tables(listing: Listing) -> list[RenderableType]:
    if not listing.namespaces:
        return [Text("nothing is stored here")]
    table = _table(
        *("namespace", "model", "dtype", "layout", ">epoch", "adapter", "salted"),
        *(">segments", ">chunks", ">tokens", ">ranges/4K", ">bytes", ">last use"),
    )
    for info in listing.namespaces:
        table.add_row(*_namespace_cells(info))
    shown: list[RenderableType] = [table]
    if listing.segments:
        shown += [Text(), _segments(listing.segments)]
    if listing.segments_left_out:
        shown.append(Text(f"… and {listing.segments_left_out:,} more segments: --limit 0 lists all", style="dim"))
    counts = (
        plural(len(listing.namespaces), "namespace"),
        plural(listing.total_segments, "segment"),
        plural(listing.total_chunks, "chunk"),
        size(listing.total_bytes),
    )
    shown += [Text(), Text(f"{', '.join(counts)}; the store holds {size(listing.store_used_bytes)}")]
    if listing.total_segments:
        shown.append(
            Text(f"a segment has {listing.median_chunks:g} chunks (median); `objectcache merge` merges small ones")
        )
    return shown


def _namespace_cells(info: NamespaceInfo) -> Iterable[str]:
    known = (info.problem,) if info.problem else (info.model,)
    yield info.digest[:SHOWN_DIGITS]
    yield from known
    yield from (info.kv_dtype, info.layout, str(info.epoch), info.adapter or NONE, "yes" if info.salted else "no")
    yield from (f"{info.segments:,}", f"{info.chunks:,}", f"{info.tokens:,}", f"{info.ranges_4k:.1f}")
    yield from (size(info.total_bytes), ago(info.last_used_s))


def _segments(segments: Sequence[SegmentInfo]) -> Table:
    columns = ("segment", "namespace", "group", ">shard", ">chunks", ">tokens", ">bytes", "parent", ">last use")
    table = _table(*columns)
    for segment in segments:
        table.add_row(
            segment.name,
            segment.namespace[:SHOWN_DIGITS],
            segment.group,
            str(segment.shard),
            f"{segment.first_chunk}-{segment.stop_chunk - 1}",
            f"{segment.first_token}-{segment.stop_token - 1}",
            size(segment.total_bytes),
            "(start)" if not segment.first_chunk else segment.parent[:SHOWN_DIGITS],
            ago(segment.last_used_s),
        )
    return table


# -- inspect ------------------------------------------------------------------------------------------


def inspection_tables(found: Inspection) -> list[RenderableType]:
    if isinstance(found, NamespaceInspection):
        return _namespace(found)
    return _segment(found) if isinstance(found, SegmentInspection) else _key(found)


def _namespace(found: NamespaceInspection) -> list[RenderableType]:
    info = found.info
    stored = f"{info.segments:,} segments, {info.chunks:,} chunks, {info.tokens:,} tokens, {size(info.total_bytes)}"
    head = [("namespace", info.digest), ("stored", f"{stored}; last use {ago(info.last_used_s)}")]
    if info.problem:
        head.append(("problem", info.problem))
    shown: list[RenderableType] = [_fields([*head, *found.fields.items()])]
    for group in found.groups:
        window = f", window of {group.window_tokens} tokens" if group.window_tokens else ""
        table = _table(">shard", "layers", "slice bytes")
        for shard in group.shards:
            table.add_row(str(shard.index), shard.layers, shard.slice_bytes)
        title = f"group {group.name}: rule {group.rule}{window}, chunks of {group.chunk_tokens} tokens"
        shown += [*_heading(title), table]
    return shown


def _key(found: KeyInspection) -> list[RenderableType]:
    fields = [("key", found.key), ("namespace", found.namespace), ("ends at token", f"{found.stop_token:,}")]
    held = _table("segment", "group", ">shard", ">index in it")
    for holder in found.holders:
        held.add_row(holder.segment, holder.group, str(holder.shard), str(holder.index))
    shown: list[RenderableType] = [_fields(fields), *_heading("held by"), held]
    for part in found.chains:
        table = _table(">chunks", "segment")
        if part.missing_chunk is not None:
            table.add_row(f"{part.missing_chunk}", f"not stored: {part.missing_key} (what lies before is unknown)")
        for run in part.runs:
            table.add_row(f"{run.first_chunk}-{run.stop_chunk - 1}", run.segment)
        shown += [*_heading(f"the chain up to it, in shard {part.shard} of group {part.group}"), table]
    return shown


def _segment(found: SegmentInspection) -> list[RenderableType]:
    segment = found.segment
    visible = "yes" if found.visible else "no: no log record commits it (yet), or one removes it"
    stored = "gone from the store" if found.object_bytes is None else f"{found.object_bytes:,} bytes"
    fields = [
        ("segment", segment.name),
        ("visible", visible),
        ("problem", found.problem or "none in header, footer and size; --verify reads all"),
        ("namespace", segment.namespace),
        ("part", f"shard {segment.shard} of group {segment.group}"),
        ("chunks", f"{segment.first_chunk} to {segment.stop_chunk - 1}, of {found.chunk_tokens} tokens each"),
        ("tokens", f"{segment.first_token:,} to {segment.stop_token - 1:,}"),
        ("parent key", segment.parent if segment.first_chunk else f"{segment.parent} (the namespace: chain's start)"),
        ("last key", segment.leaf),
        ("object", f"{stored}, written {ago(found.modified_s)}, last use {ago(segment.last_used_s)}"),
        ("header", f"{found.header_bytes:,} bytes"),
    ]
    table = _table(">layer", ">slice bytes", ">bytes", ">digest row at", ">its bytes", ">slices at")
    for layer in found.layers:
        numbers = (layer.slice_bytes, layer.layer_bytes, layer.row_offset, layer.row_bytes, layer.data_offset)
        table.add_row(str(layer.layer), *(f"{number:,}" for number in numbers))
    return [_fields(fields), *_heading("layers"), table]


def verdict_lines(found: SegmentInspection, verdicts: Sequence[LayerVerdict]) -> list[RenderableType]:
    """What `--verify` found."""
    lines: list[RenderableType] = [
        Text(f"layer {layer.layer}: {verdict.problem}", style="red")
        for layer, verdict in zip(found.layers, verdicts, strict=True)
        if verdict.problem
    ]
    read = size(sum(verdict.read_bytes for verdict in verdicts))
    if lines:
        lines.append(Text(f"damaged: {len(lines)} of {plural(len(verdicts), 'layer')}", style="bold red"))
    else:
        lines.append(Text(f"verified: {plural(len(verdicts), 'layer')}, {read}", style="green"))
    return [Text(), *lines]


# -- why ----------------------------------------------------------------------------------------------


def why_tables(found: Explanation) -> list[RenderableType]:
    style = "bold green" if found.reason is Reason.ALL_MATCHED else "bold"
    shown: list[RenderableType] = [Text(found.sentence, style=style)]
    shown += [Text(f"  note: {note}") for note in found.notes]
    if found.next_step:
        shown.append(Text(f"  next: {found.next_step}", style="cyan"))
    if found.parts and found.reason is not Reason.ALL_MATCHED:
        shown += [*_heading("what each part holds of the prompt"), _parts(found.parts)]
    for near in found.neighbours:
        matched = "" if near.matched_tokens is None else f"; there the prompt matches {near.matched_tokens:,} tokens"
        title = f"namespace {near.namespace} differs in these fields{matched}"
        shown += [*_heading(title), _differences(near.differences)]
    return shown


def _parts(parts: Sequence[PartState]) -> Table:
    table = _table(
        *(
            "group",
            "rule",
            ">shard",
            "of the model",
            ">tokens a chunk",
            "chunks stored",
            ">tokens it would match alone",
        ),
    )
    for part in parts:
        held = ", ".join(f"{first}-{stop - 1}" if stop - first > 1 else f"{first}" for first, stop in part.stored)
        table.add_row(
            part.group,
            part.rule,
            str(part.shard),
            part.place,
            str(part.chunk_tokens),
            held or "none",
            f"{part.alone_tokens:,}",
        )
    return table


def _differences(differences: Sequence[FieldDifference]) -> Table:
    table = _table("field", "asked for", "stored")
    for item in differences:
        table.add_row(item.field, item.asked or "(empty)", item.stored or "(empty)")
    return table
