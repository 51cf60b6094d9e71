"""What the demonstration promises, and whether its figures keep it."""

from __future__ import annotations

from typing import Any

FIRST_LAYER_LIMIT = 1.3
"""Of the first layer's share of the time that the whole transfer takes."""
ASKING_LIMIT_MS = 10.0
"""What asking for a delivery, and threads that wait for a core, may add: on loopback as much as a layer takes."""


def broken_promises(figures: dict[str, Any]) -> tuple[str, ...]:
    """What did not hold, with figures; empty when everything did."""
    matched, expected = figures["matched_tokens"], figures["expected_tokens"]
    tail = figures["tokens"] - expected
    ttft = figures["ttft_ms"]
    promises = [
        (
            figures["prefill"]["stored_tokens"] + figures["prefill"]["matched_tokens"] >= expected,
            f"the first process stored {figures['prefill']['stored_tokens']:,} tokens of at least {expected:,}",
        ),
        (matched == expected, f"{matched:,} tokens matched, {expected:,} are stored in full chunks"),
        (
            figures["computed_tokens"] == tail,
            f"{figures['computed_tokens']:,} tokens were computed, the unmatched tail is {tail:,}",
        ),
        (figures["in_order"], "layers did not land in delivery order"),
        (
            figures["first_layer_excess_ms"] <= ASKING_LIMIT_MS,
            f"the first layer landed {figures['first_layer_excess_ms']:.1f} ms after {FIRST_LAYER_LIMIT} × its share "
            f"of the transfer (at {figures['first_layer_share']:.2f} ×); asking may take {ASKING_LIMIT_MS:.0f} ms",
        ),
        (figures["logits_equal"], "logits differ from those with the same prefix in memory"),
        (
            figures["max_abs_diff"] <= figures["max_abs_diff_bound"],
            f"logits differ from full recomputation by {figures['max_abs_diff']:.1e}, "
            f"the bound is {figures['max_abs_diff_bound']:.1e}",
        ),
        (figures["next_token_equal"], "the first token is not that of full recomputation"),
        (
            max(ttft["layerwise"], ttft["chunkwise"]) < ttft["recompute"],
            f"the cache did not help: {ttft['layerwise']:.0f} ms layerwise, {ttft['chunkwise']:.0f} ms chunkwise, "
            f"{ttft['recompute']:.0f} ms recomputed",
        ),
    ]
    return tuple(text for kept, text in promises if not kept)
