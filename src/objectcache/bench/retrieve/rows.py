"""From transfers to rows and the summary: pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from objectcache.bench.bars import Bar
from objectcache.bench.result import Row, ratio_row, sample_row
from objectcache.bench.retrieve.settings import RetrieveSettings
from objectcache.bench.transfer import Transfer

RAW_BETWEEN = "raw loop between listings"
RAW_LISTING, LAYERWISE_LISTING = "raw loop beside listings", "layerwise beside listings"
LANDED = "layers landed"
_MIB = 1 << 20

BARS = (
    Bar("tcp_ratio", 0.75),
    Bar("goodput_ratio", 0.80),
    Bar("shm_ratio", 0.85),
    Bar("goodput_ratio_busy", 0.70),
    Bar("first_layer_factor", 1.3, at_most=True),
    Bar("plan_ms", 5.0, at_most=True),
    Bar("first_byte_ms", 0.6, at_most=True),
    Bar("first_byte_p99_ms", 2.0, at_most=True),
    Bar("first_byte_beside_ms", 2.0, at_most=True),
)


NIXL_BARS = (Bar("nixl_ratio_shm", 0.70), Bar("nixl_ratio_tcp", 0.80))


def bars_of(settings: RetrieveSettings) -> tuple[Bar, ...]:
    """Of what is measured with these settings."""
    return NIXL_BARS if settings.target == "nixl" else BARS


def transfer_rows(name: str, measured: Mapping[str, Sequence[Transfer]], about: Mapping[str, object]) -> list[Row]:
    """Rows of ways that were measured in turn, i-th beside i-th, of what `name` says. `at_s` shows the order."""
    rows = []
    zero_s = min(t.started_s for transfers in measured.values() for t in transfers)
    for way, transfers in measured.items():
        facts = {**about, "payload_bytes": transfers[0].payload_bytes}
        at_s = [t.started_s - zero_s for t in transfers]
        goodput = [t.goodput_gb_s for t in transfers]
        rows.append(sample_row(_named(way, name), "GB/s", goodput, at_s=at_s, **facts))
        cpu = {
            "sender": [t.sender_cpu_s_per_gb for t in transfers],
            "receiver": [t.receiver_cpu_s_per_gb for t in transfers],
        }
        for side, samples in cpu.items():
            rows.append(sample_row(f"{_named(way, name)}: {side} CPU", "CPU s/GB", samples, **facts))
        if all(t.landed_s for t in transfers):
            rows += _layer_rows(_named(way, name), transfers, facts)
        served = [t.lists_per_s for t in transfers if t.lists_per_s is not None]
        if served:
            rows.append(sample_row(f"{_named(way, name)}: listings served", "1/s", served, **facts))
    return rows


def _layer_rows(name: str, transfers: Sequence[Transfer], about: Mapping[str, object]) -> list[Row]:
    middle = sorted(transfers, key=lambda t: t.seconds)[len(transfers) // 2]
    answered_ms = [t.answered_s * 1e3 for t in transfers if t.answered_s is not None]
    rows = [sample_row(f"{name}: request answered", "ms", answered_ms, **about)] if answered_ms else []
    return [
        *rows,
        sample_row(f"{name}: first layer", "ms", [t.first_layer_ms for t in transfers], **about),
        sample_row(f"{name}: {LANDED}, a median run", "ms", [at_s * 1e3 for at_s in middle.landed_s], **about),
    ]


def first_layer_row(name: str, way: str, transfers: Sequence[Transfer], first_byte_ms: float) -> Row:
    """When the first layer landed, less the time to first byte, as a multiple of its share of the whole time."""
    factors = [t.first_layer_factor(first_byte_ms / 1e3) for t in transfers]
    return sample_row(f"{_named(way, name)}: first layer factor", "×", factors, first_byte_ms=first_byte_ms)


def ratio_of(name: str, rows: Sequence[Row], way: str, over: str) -> Row:
    """Goodput of `way` over that of `over`, pair by pair."""
    found = {row["name"]: row for row in rows}
    above, below = found[_named(way, name)], found[_named(over, name)]
    return ratio_row(f"{way} / {over}, {name}", above, below)


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


def _named(way: str, name: str) -> str:
    return f"{way}, {name}"
