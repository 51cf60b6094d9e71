"""The same timeline as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Distinguishable with any colour vision, and in grey.
_TRANSFER, _COMPUTE, _WAIT = "#56b4e9", "#006d4f", "#e69f00"


def draw(figures: dict[str, Any], path: Path) -> None:
    """Write a PNG: transfer against compute per layer, chunkwise above layerwise, on one time axis (ms)."""
    panels = {
        f"chunkwise: {figures['ttft_ms']['chunkwise']:.0f} ms to the first token": figures["layers_chunkwise"],
        f"layerwise: {figures['ttft_ms']['layerwise']:.0f} ms": figures["layers"],
    }
    layers = len(figures["layers"])
    figure = Figure(figsize=(10, 2 + 0.36 * layers), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"{figures['matched_tokens']:,} tokens ({figures['matched_bytes'] / 1e6:.0f} MB) from the cache, "
        f"{figures['computed_tokens']:,} computed; {figures['ttft_ms']['recompute']:,.0f} ms without the cache",
        x=0.01,
        ha="left",
    )
    axes = figure.subplots(2, 1, sharex=True)
    for axis, (title, rows) in zip(axes, panels.items(), strict=True):
        _panel(axis, rows)
        axis.set_title(title, loc="left", fontsize=10)
    axes[1].set_xlabel("ms since the delivery was asked for (a median run)")
    axes[0].legend(loc="upper right", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)


def _panel(axis: Any, rows: list[dict[str, float]]) -> None:
    begin_ms = landed_ms = 0.0
    for row in rows:
        if row["arrival_ms"] != landed_ms:  # otherwise it came with the one before
            begin_ms, landed_ms = landed_ms, row["arrival_ms"]
        y, label = row["layer"], row is rows[0]
        stood_ms = row["asked_ms"] + row["waited_ms"]
        bars = [
            (begin_ms, landed_ms, y - 0.38, _TRANSFER, "layer on its way"),
            (row["compute_start_ms"], row["asked_ms"], y + 0.02, _COMPUTE, ""),
            (row["asked_ms"], stood_ms, y + 0.02, _WAIT, "forward waits"),
            (stood_ms, row["compute_end_ms"], y + 0.02, _COMPUTE, "layer computed"),
        ]
        for start, end, bottom, colour, name in bars:
            legend = name if label and name else "_nolegend_"
            axis.broken_barh([(start, max(0.0, end - start))], (bottom, 0.36), color=colour, label=legend)
    axis.invert_yaxis()
    axis.set_ylabel("layer")
    axis.set_yticks([row["layer"] for row in rows][:: max(1, len(rows) // 12)])
    axis.spines[["top", "right"]].set_visible(False)
