"""The figures as a table and a timeline in the terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

WAYS = ("recompute", "chunkwise", "layerwise", "memory")
_TRANSFER, _COMPUTE, _WAIT = "cyan", "green", "red"
_MARKS = {"▁": _TRANSFER, "█": _COMPUTE, "░": _WAIT}
_MAX_TIMELINE_COLUMNS = 80


def show(console: Console, figures: dict[str, Any]) -> None:
    """Print everything a reader wants to know."""
    console.print(_table(figures))
    console.print(_timeline(figures["layers"], min(_MAX_TIMELINE_COLUMNS, console.width - 42)))
    console.print(_verdict(figures))


def _table(figures: dict[str, Any]) -> Table:
    title = f"Question B, {figures['tokens']:,} tokens: medians"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("way", no_wrap=True)
    for name in ("TTFT ms", "added ms", "matched", "computed", "loaded MB", "1st layer ms", "stall per layer ms"):
        table.add_column(name, justify="right")
    ttft = figures["ttft_ms"]
    layers = len(figures["layers"])
    for way in WAYS:
        from_cache = way in figures["first_layer_ms"]
        matched = 0 if way == "recompute" else figures["matched_tokens"]
        table.add_row(
            Text(way, style="bold" if way == "layerwise" else ""),
            _ms(ttft[way]),
            "" if way == "memory" else _ms(ttft[way] - ttft["memory"]),
            f"{matched:,}",
            f"{figures['tokens'] - matched:,}",
            f"{figures['matched_bytes'] / 1e6:,.1f}" if from_cache else "",
            _ms(figures["first_layer_ms"][way]) if from_cache else "",
            _ms(figures["stall_ms"][way] / layers) if from_cache else "",
        )
    table.caption = "Tokens are bytes here. TTFT: time to first token; added: to the same prefix kept in memory."
    table.caption_justify = "left"
    return table


def _ms(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.1f}"


def _timeline(rows: list[dict[str, float]], columns: int) -> Panel:
    """A line a layer: when it was on its way, when the forward computed it, and when the forward stood still."""
    start_ms = min(0.0, rows[0]["compute_start_ms"])
    per_column = (rows[-1]["compute_end_ms"] - start_ms) / columns
    lines = []
    landed_ms = 0.0
    for row in rows:
        marks = ["·"] * columns
        spans = [(landed_ms, row["arrival_ms"], "▁"), (row["compute_start_ms"], row["compute_end_ms"], "█")]
        if row["waited_ms"] >= per_column / 2:
            spans.append((row["asked_ms"], row["asked_ms"] + row["waited_ms"], "░"))
        for begin_ms, end_ms, mark in spans:
            first = int((begin_ms - start_ms) / per_column)
            for column in range(first, max(first + 1, round((end_ms - start_ms) / per_column))):
                marks[min(column, columns - 1)] = mark
        line = Text(f"{int(row['layer']):>2} ")
        for mark in marks:
            line.append(mark, style=_MARKS.get(mark, "dim"))
        line.append(f" landed {row['arrival_ms']:5.0f}, computed {row['compute_end_ms']:5.0f} ms", style="dim")
        lines.append(line)
        landed_ms = row["arrival_ms"]
    legend = Text("   ")
    for mark, meaning in (("▁", "on its way"), ("█", "computed"), ("░", "waited for")):
        legend.append(f"{mark} {meaning}   ", style=_MARKS[mark])
    return Panel(Group(*lines, legend), title="One layerwise request, by layer", title_align="left", expand=False)


def _verdict(figures: dict[str, Any]) -> Text:
    text = Text()
    if figures["logits_equal"]:
        text.append("Logits are bit for bit those with the same prefix kept in memory.\n", style="green")
    else:
        text.append("Logits differ from those with the same prefix kept in memory.\n", style="red")
    if figures["logits_equal_recompute"]:
        text.append("They are bit for bit those of full recomputation too.\n", style="green")
    else:
        text.append(
            f"Against full recomputation they differ by at most {figures['max_abs_diff']:.1e} "
            f"(bound {figures['max_abs_diff_bound']:.1e}): a forward over all tokens sums the same products in another "
            "order than one over the tail.\n"
        )
    ttft = figures["ttft_ms"]
    text.append(
        f"First token {ttft['recompute'] / ttft['layerwise']:.1f} × sooner than by recomputing, "
        f"{ttft['layerwise'] - ttft['memory']:+.0f} ms to a prefix in memory "
        f"(chunkwise {ttft['chunkwise'] - ttft['memory']:+.0f} ms). "
        f"The first layer landed at {figures['first_layer_share']:.2f} × its share of the transfer. "
        f"Here the transfer takes its share of the {figures['machine']['cores']} cores that compute; an accelerator "
        "would not notice it."
    )
    return text
