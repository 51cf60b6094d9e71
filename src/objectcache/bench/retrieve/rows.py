"""From transfers to rows and the summary: pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from objectcache.bench.bars import Bar
from objectcache.bench.result import Row, ratio_row, sample_row
from objectcache.bench.transfer import Transfer

RAW, LAYERWISE = "raw loop", "layerwise"
RAW_BETWEEN = "raw loop between listings"
RAW_LISTING, LAYERWISE_LISTING = "raw loop beside listings", "layerwise beside listings"
LANDED = "layers landed"
_MIB = 1 << 20

BARS = (
    Bar("goodput_ratio", 0.70),
    Bar("goodput_ratio_busy", 0.70),
    Bar("plan_ms", 5.0, at_most=True),
    Bar("first_byte_ms", 0.6, at_most=True),
    Bar("first_byte_p99_ms", 2.0, at_most=True),
    Bar("first_byte_beside_ms", 2.0, at_most=True),
)


def transfer_rows(context: int, measured: Mapping[str, Sequence[Transfer]]) -> list[Row]:
    """Rows of ways that were measured in turn, i-th beside i-th; `context` in tokens. `at_s` shows the order."""
    rows = []
    zero_s = min(t.started_s for transfers in measured.values() for t in transfers)
    for way, transfers in measured.items():
        about = {"context_tokens": context, "payload_bytes": transfers[0].payload_bytes}
        at_s = [t.started_s - zero_s for t in transfers]
        goodput = [t.goodput_gb_s for t in transfers]
        rows.append(sample_row(_named(way, context), "GB/s", goodput, at_s=at_s, **about))
        cpu = {
            "sender": [t.sender_cpu_s_per_gb for t in transfers],
            "receiver": [t.receiver_cpu_s_per_gb for t in transfers],
        }
        for side, samples in cpu.items():
            rows.append(sample_row(f"{_named(way, context)}: {side} CPU", "CPU s/GB", samples, **about))
        if all(t.landed_s for t in transfers):
            rows += _layer_rows(_named(way, context), transfers, about)
        served = [t.lists_per_s for t in transfers if t.lists_per_s is not None]
        if served:
            rows.append(sample_row(f"{_named(way, context)}: listings served", "1/s", served, **about))
    return rows


def _layer_rows(name: str, transfers: Sequence[Transfer], about: Mapping[str, object]) -> list[Row]:
    middle = sorted(transfers, key=lambda t: t.seconds)[len(transfers) // 2]
    answered_ms = [t.answered_s * 1e3 for t in transfers if t.answered_s is not None]
    return [
        sample_row(f"{name}: request answered", "ms", answered_ms, **about),
        sample_row(f"{name}: first layer", "ms", [t.first_layer_ms for t in transfers], **about),
        sample_row(f"{name}: first layer factor", "×", [t.first_layer_factor for t in transfers], **about),
        sample_row(f"{name}: {LANDED}, a median run", "ms", [at_s * 1e3 for at_s in middle.landed_s], **about),
    ]


def ratio_of(context: int, rows: Sequence[Row], way: str, over: str) -> Row:
    """Goodput of `way` over that of `over`, pair by pair."""
    found = {row["name"]: row for row in rows}
    above, below = found[_named(way, context)], found[_named(over, context)]
    return ratio_row(f"{way} / {over}, {tokens(context)}", above, below, context_tokens=context)


def memory_rows(samples: Mapping[str, Sequence[Mapping[str, int]]]) -> list[Row]:
    """Of every stage, samples of anonymous bytes by process."""
    rows = []
    for stage, taken in samples.items():
        for process in taken[0]:
            used = [sample[process] / _MIB for sample in taken]
            rows.append(sample_row(f"anonymous memory {stage}: {process}", "MiB", used, process=process, stage=stage))
    return rows


def growth_mib(samples: Mapping[str, Sequence[Mapping[str, int]]]) -> float:
    """From the first sample to the largest since, all processes together."""
    totals = [sum(sample.values()) for taken in samples.values() for sample in taken]
    return (max(totals) - totals[0]) / _MIB


def _named(way: str, context: int) -> str:
    return f"{way}, {tokens(context)}"


def tokens(context: int) -> str:
    return f"{context // 1024}K" if context % 1024 == 0 else str(context)
