"""Rows and summary of `bench ttft`: what each path adds to local DRAM, run by run, and how far it is from the floor."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from objectcache.bench.bars import Bar
from objectcache.bench.result import Row, sample_row
from objectcache.bench.ttft.added import added_parts_ms
from objectcache.bench.ttft.floor import floor_ms
from objectcache.bench.ttft.paths import (
    CHUNKWISE_PATH,
    LAYERWISE,
    LOCAL,
    LOCAL_FIRST,
    RESIDENT,
    SERVER_MODE,
    SPLIT,
    Run,
)
from objectcache.bench.ttft.settings import CORE_HITS, LINE_GBPS, LONGEST_CONTEXT, Cell

_RESAMPLES = 2000
_FIXED_MODES = (LAYERWISE, CHUNKWISE_PATH)

BARS = (
    Bar("added_pct_64k_max", 2.0, at_most=True),
    Bar("added_pct_64k_local_first", 0.5, at_most=True),
    Bar("added_ms_4k_50", 2.0, at_most=True),
    Bar("floor_ratio_4k_max", 1.05, at_most=True),
    Bar("floor_ratio_16k_max", 1.05, at_most=True),
    Bar("split_gain_ms", 0.0),
    Bar("mode_selection_worst", 1.05, at_most=True),
    Bar("logits_equal", 1.0),
)


def interval(differences: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95 % confidence interval of the median, by resampling (percentile bootstrap)."""
    drawn = np.random.default_rng(seed).choice(np.asarray(differences), (_RESAMPLES, len(differences)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return float(low), float(high)


def cell_rows(
    cell: Cell,
    runs: Mapping[str, Sequence[Run]],
    layer_bytes: int,
    equal: Mapping[str, bool | None],
    stolen_pct: float = 0.0,
) -> list[Row]:
    """A row a path. `equal`: whether its logits are those with the prefix in place (None: not to be expected).
    `stolen_pct` of the processor time wanted went to others meanwhile."""
    bytes_s = cell.gbps * 1e9 / 8
    floors = [floor_ms(run.ttft_ms, run.timeline.needed_ms, layer_bytes, bytes_s) for run in runs[RESIDENT]]
    local = [run.ttft_ms for run in runs[LOCAL]]
    floors = [max(floor, at_least) for floor, at_least in zip(floors, local, strict=True)]
    base = _middle(runs[LOCAL])
    rows = []
    for path, found in runs.items():
        middle = _middle(found)
        samples = [run.ttft_ms for run in found]
        added = [ttft - base for ttft, base in zip(samples, local, strict=False)]
        percents = [100 * more / base for more, base in zip(added, local, strict=False)]
        ratios = [ttft / floor for ttft, floor in zip(samples, floors, strict=False)]
        rows.append(
            sample_row(
                f"{cell.name}: {path}",
                "ms",
                [round(sample, 3) for sample in samples],
                context=cell.context,
                hit=cell.hit,
                cap_gbps=cell.gbps,
                target=cell.target,
                store=cell.stored,
                step_tokens=cell.step_tokens,
                path=path,
                added_ms=statistics.median(added),
                added_ms_interval=interval(added),
                added_pct=statistics.median(percents),
                added_pct_interval=interval(percents),
                floor_ms=statistics.median(floors),
                floor_ratio=statistics.median(ratios),
                logits_equal=equal.get(path),
                stolen_pct=round(stolen_pct, 2),
                added_parts_ms={
                    name: round(part_ms, 3)
                    for name, part_ms in added_parts_ms(
                        middle.timeline, middle.ttft_ms, base.timeline, base.ttft_ms
                    ).items()
                },
                timeline=middle.timeline.to_dict(),
            )
        )
    return rows


def _middle(runs: Sequence[Run]) -> Run:
    """The run whose time is the median (the lower, of two)."""
    return sorted(runs, key=lambda run: run.ttft_ms)[(len(runs) - 1) // 2]


def summary_of(rows: Sequence[Row]) -> dict[str, Any]:
    """Only what these rows can say: a part of the grid has a part of the summary."""
    core = [row for row in rows if _is_core(row)]

    def values(field: str, path: str, context: int, *hits: float) -> list[float]:
        return [
            row[field]
            for row in core
            if row["path"] == path and row["context"] == context and (not hits or row["hit"] in hits)
        ]

    found = {
        "added_pct_64k_max": values("added_pct", LAYERWISE, LONGEST_CONTEXT),
        "added_pct_64k_local_first": values("added_pct", LOCAL_FIRST, LONGEST_CONTEXT),
        "added_ms_4k_50": values("added_ms", LAYERWISE, 4096, 0.5),
        "floor_ratio_4k_max": values("floor_ratio", LAYERWISE, 4096, 0.875),
        "floor_ratio_16k_max": values("floor_ratio", LAYERWISE, 16384, 0.875),
        "mode_selection_worst": _mode_selection(rows),
    }
    summary: dict[str, Any] = {key: max(each) for key, each in found.items() if each}
    gains = _split_gains(core)
    if gains:
        summary["split_gain_ms"] = min(gains)
    equal = [row["logits_equal"] for row in rows if row.get("logits_equal") is not None]
    if equal:
        summary["logits_equal"] = float(all(equal))
    stolen = [row["stolen_pct"] for row in rows if "stolen_pct" in row]
    if stolen:
        summary["stolen_pct_max"] = max(stolen)
    return summary


def _is_core(row: Row) -> bool:
    standard = (row.get("target"), row.get("store"), row.get("step_tokens"), row.get("cap_gbps"))
    return standard == ("tcp", "memory", 0, LINE_GBPS) and row["hit"] in CORE_HITS


def _by_cell(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    cells: dict[str, dict[str, Row]] = {}
    for row in rows:
        if "path" in row:
            cells.setdefault(row["name"].rpartition(":")[0], {})[row["path"]] = row
    return cells


def _mode_selection(rows: Sequence[Row]) -> list[float]:
    """Of each cell: the server's choice over the best fixed mode."""
    return [
        paths[SERVER_MODE]["median"] / min(paths[mode]["median"] for mode in _FIXED_MODES if mode in paths)
        for paths in _by_cell(rows).values()
        if SERVER_MODE in paths and LAYERWISE in paths
    ]


def _split_gains(rows: Sequence[Row]) -> list[float]:
    """Of each cell where the wire is the floor: what the split saves over layerwise delivery of all, run by run."""
    gains = []
    for paths in _by_cell(rows).values():
        if SPLIT in paths and paths[SPLIT]["context"] < LONGEST_CONTEXT and paths[SPLIT]["hit"] == 0.875:
            pairs = zip(paths[LAYERWISE]["samples"], paths[SPLIT]["samples"], strict=False)
            gains.append(statistics.median(whole - part for whole, part in pairs))
    return gains
