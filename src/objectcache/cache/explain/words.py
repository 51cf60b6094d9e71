"""Namespaces and layouts for people: in words, by field, and by what differs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from itertools import groupby

from objectcache.cache.explain.results import FieldDifference, GroupInfo, NamespaceInfo, ShardInfo
from objectcache.keys import Namespace
from objectcache.layout import KVGroup, KVLayout, KVShard, MatchRule

SHORT_DIGITS = 16
ABSENT = "(absent)"
_KINDS = {MatchRule.PREFIX: "full attention", MatchRule.WINDOW: "window", MatchRule.STATE: "state"}


def short(key: bytes) -> str:
    """A key or digest as it is shown."""
    return key.hex()[:SHORT_DIGITS]


def plural(count: int, word: str) -> str:
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def moment(time_s: float) -> str:
    """Unix time as UTC, to the second."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def ranges(numbers: Iterable[int]) -> str:
    """Ascending numbers as "0-31, 40"."""
    runs = []
    for _, run in groupby(enumerate(numbers), key=lambda item: item[1] - item[0]):
        held = [number for _, number in run]
        runs.append(f"{held[0]}-{held[-1]}" if len(held) > 1 else str(held[0]))
    return ", ".join(runs)


def sizes(slice_bytes: Iterable[int]) -> str:
    """Slice sizes in layer order, as "65536 B × 32, 1024 B"."""
    runs = [(size, len(list(run))) for size, run in groupby(slice_bytes)]
    return ", ".join(f"{size} B × {count}" if count > 1 else f"{size} B" for size, count in runs)


def group_layers(group: KVGroup) -> list[int]:
    """The layers of all its shards, ascending."""
    return sorted({layer for shard in group.shards for layer in shard.layers})


def layout_words(layout: KVLayout) -> str:
    """A layout in one line."""
    groups = []
    for group in layout.groups:
        kind = _KINDS[group.rule] + (f" of {group.window_tokens} tokens" if group.window_tokens else "")
        groups.append(
            f"{plural(len(group_layers(group)), 'layer')} {kind} in {plural(len(group.shards), 'shard')}, "
            f"chunks of {group.chunk_tokens}"
        )
    return "; ".join(groups) + f"; {layout.bytes_per_token / 1024:.4g} KiB a token"


def namespace_info(namespace: Namespace) -> NamespaceInfo:
    """What the namespace says; what is stored of it is for others to add."""
    return NamespaceInfo(
        digest=short(namespace.digest),
        model=namespace.model,
        kv_dtype=namespace.kv_dtype,
        layout=layout_words(namespace.layout),
        epoch=namespace.epoch,
        adapter=namespace.adapter,
        salted=bool(namespace.salt_sha256),
    )


def namespace_fields(namespace: Namespace) -> dict[str, str]:
    """All fields but the layout, as text. Of a salt only that there is one."""
    text = {
        item.name: str(getattr(namespace, item.name))
        for item in fields(namespace)
        if item.name not in ("layout", "salt_sha256", "extra")
    }
    text["salt"] = "set" if namespace.salt_sha256 else "none"
    return text | {f"extra.{name}": value for name, value in sorted(namespace.extra.items())}


def group_info(group: KVGroup) -> GroupInfo:
    return GroupInfo(
        name=group.name,
        rule=group.rule.value,
        chunk_tokens=group.chunk_tokens,
        window_tokens=group.window_tokens,
        shards=tuple(ShardInfo(shard.index, ranges(shard.layers), sizes(shard.slice_bytes)) for shard in group.shards),
    )


def place(group: KVGroup, shard: KVShard) -> str:
    """Which part of the model a shard is, since its ranks are not written down: "layers 0-15, part 2 of 4"."""
    alike = [other.index for other in group.shards if other.layers == shard.layers]
    part = f", part {alike.index(shard.index) + 1} of {len(alike)}" if len(alike) > 1 else ""
    return f"{'layer' if len(shard.layers) == 1 else 'layers'} {ranges(shard.layers)}{part}"


def _per_shard(texts: Sequence[str]) -> str:
    return texts[0] if len(set(texts)) == 1 else " | ".join(texts)


def layout_fields(layout: KVLayout) -> dict[str, str]:
    """A layout by field, as text: two layouts differ exactly where these do."""
    text = {"layout.groups": ", ".join(group.name for group in layout.groups)}
    for group in layout.groups:
        shards: tuple[KVShard, ...] = group.shards
        of_group = {
            "rule": group.rule.value,
            "chunk_tokens": str(group.chunk_tokens),
            "window_tokens": str(group.window_tokens),
            "shards": str(len(shards)),
            "layers": _per_shard([ranges(shard.layers) for shard in shards]),
            "slice_bytes": _per_shard([sizes(shard.slice_bytes) for shard in shards]),
        }
        text |= {f"layout.{group.name}.{name}": value for name, value in of_group.items()}
    return text


def differences(asked: Namespace, stored: Namespace) -> tuple[FieldDifference, ...]:
    """Where two namespaces differ, field by field. A salt only differs."""
    salts = asked.salt_sha256, stored.salt_sha256
    mine, theirs = namespace_fields(asked), namespace_fields(stored)
    if all(salts) and salts[0] != salts[1]:
        theirs["salt"] = "another"
    mine_held, theirs_held = layout_fields(asked.layout), layout_fields(stored.layout)
    names = dict.fromkeys([*mine, *theirs, *mine_held, *theirs_held])
    mine, theirs = mine | mine_held, theirs | theirs_held
    return tuple(
        FieldDifference(name, mine.get(name, ABSENT), theirs.get(name, ABSENT))
        for name in names
        if mine.get(name) != theirs.get(name)
    )
