"""The engine processes: one stores a prefill, another asks the same document something else.

Started as `python -m objectcache.demo.engine JOB` (JSON). Each line it prints is a JSON object: {"say": …} while it
works, {"result": …} at the end.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import objectcache
from objectcache.cache.base import CHUNKWISE, KVCache, RetrieveOptions
from objectcache.connectors.transformers import TransformersConnector, cache_output
from objectcache.demo.checks import FIRST_LAYER_LIMIT
from objectcache.demo.measure import Measured, copy_prefix, from_cache, recompute
from objectcache.demo.model import build_model
from objectcache.demo.options import Job
from objectcache.demo.prompts import prompt, shared_tokens
from objectcache.errors import ObjectCacheError

Say = Callable[[str], None]
CHUNK_TOKENS = 16
_STORE_TIMEOUT_S = 60.0
_OPTIONS = {"chunkwise": RetrieveOptions(layers_per_unit=CHUNKWISE), "layerwise": RetrieveOptions(layers_per_unit=1)}
_MAX_RELATIVE_DIFFERENCE = 1e-4
"""Of logits against full recomputation: the same products, summed in another order, layer upon layer."""


def run_job(job: Job, say: Say) -> dict[str, Any]:
    """Do `job` in this process; `say` hears what it is at. Raises ObjectCacheError."""
    say(f"building the model: {job.size.layers} layers, hidden size {job.size.hidden}, seed {job.size.seed}")
    model = build_model(job.size)
    with _open(job) as cache:
        return {"prefill": _prefill, "ask": _ask}[job.role](job, cache, model, say)


def _open(job: Job) -> KVCache:
    if job.url.startswith("http"):
        return objectcache.open(job.url, options=objectcache.ClientOptions(target=job.target))
    return objectcache.open(job.url)


def _prefill(job: Job, cache: KVCache, model: Any, say: Say) -> dict[str, Any]:
    """Compute the document with question A, and store it."""
    ids = torch.tensor([prompt("A")])
    with TransformersConnector(cache, model, chunk_tokens=CHUNK_TOKENS) as connector:
        say(f"prefill of {ids.shape[1]:,} tokens, each layer stored as it is computed")
        start_s = time.perf_counter()
        result = connector.prefill(ids)
        prefill_s = time.perf_counter() - start_s
        recording = result.cache.recording
        if recording is None or not recording.wait(_STORE_TIMEOUT_S):
            raise ObjectCacheError(f"the prefill was not stored within {_STORE_TIMEOUT_S:.0f} s")
        if recording.error is not None:
            raise recording.error
        return {
            "pid": os.getpid(),
            "tokens": ids.shape[1],
            "matched_tokens": result.report.matched_tokens,
            "stored_tokens": recording.stored_tokens,
            "stored_bytes": connector.stats.stored_bytes,
            "prefill_ms": prefill_s * 1e3,
            "stored_after_ms": (time.perf_counter() - start_s) * 1e3,
        }


def _ask(job: Job, cache: KVCache, model: Any, say: Say) -> dict[str, Any]:
    """Ask question B: recomputed, chunkwise and layerwise in turn, and from a prefix in memory as what is to be met."""
    ids = torch.tensor([prompt("B")])
    shared = shared_tokens()
    whole = shared // CHUNK_TOKENS * CHUNK_TOKENS
    keep = ids.shape[1] - whole
    with TransformersConnector(cache, model, chunk_tokens=CHUNK_TOKENS, load_or_recompute=False) as connector:
        say("computing the prefix in memory, to compare with")
        with torch.no_grad():
            first = model(torch.tensor([prompt("A")]), use_cache=True, logits_to_keep=1)
        runs: dict[str, list[Measured]] = {"recompute": [], "memory": [], "chunkwise": [], "layerwise": []}

        def measure(way: str) -> Measured:
            gc.collect()
            if way == "recompute":
                return recompute(model, ids, keep)
            if way == "memory":
                return recompute(model, ids, keep, copy_prefix(cache_output(first), whole))
            return from_cache(connector, model, ids, keep, _OPTIONS[way])

        say("warming up")
        for way in ("memory", "chunkwise", "layerwise"):
            measure(way)
        for index in range(job.rounds):
            say(f"round {index + 1} of {job.rounds}")
            # Recomputing takes as long as all of the others: every third round, first and last included.
            for way in runs if index % 3 == 0 or index == job.rounds - 1 else list(runs)[1:]:
                runs[way].append(measure(way))
        return _compare(runs, ids.shape[1], shared, whole)


def _compare(runs: dict[str, list[Measured]], tokens: int, shared: int, whole: int) -> dict[str, Any]:
    medians = {way: sorted(done, key=lambda run: run.ttft_s)[len(done) // 2] for way, done in runs.items()}
    full, memory = medians["recompute"], medians["memory"]
    hits = runs["chunkwise"] + runs["layerwise"]
    layerwise = medians["layerwise"]
    # Fewer tokens than expected matched: then there are fewer logits in memory to compare with.
    same_length = all(run.logits.shape == memory.logits.shape for run in hits)
    difference = max(float((run.logits - full.logits[:, -run.logits.shape[1] :]).abs().max()) for run in hits)
    return {
        "pid": os.getpid(),
        "tokens": tokens,
        "shared_tokens": shared,
        "expected_tokens": whole,
        "matched_tokens": min(run.matched_tokens for run in hits),
        "computed_tokens": max(run.computed_tokens for run in hits),
        "matched_bytes": layerwise.matched_bytes,
        "logits_equal": same_length and all(torch.equal(run.logits, memory.logits) for run in hits),
        "logits_equal_recompute": difference == 0.0,
        "max_abs_diff": difference,
        "max_abs_diff_bound": _MAX_RELATIVE_DIFFERENCE * float(full.logits.abs().max()),
        "next_token_equal": {run.next_token for run in hits} == {full.next_token},
        "ttft_ms": {way: statistics.median(run.ttft_s for run in done) * 1e3 for way, done in runs.items()},
        "ttft_runs_ms": {way: [run.ttft_s * 1e3 for run in done] for way, done in runs.items()},
        "in_order": all(run.in_order for run in hits),
        "first_layer_share": statistics.median(run.first_share for run in runs["layerwise"]),
        "first_layer_excess_ms": statistics.median(
            (run.first_share - FIRST_LAYER_LIMIT) * run.layer_share_s for run in runs["layerwise"]
        )
        * 1e3,
        "stall_ms": {
            way: statistics.median(sum(timing.waited_s for timing in run.timings) for run in runs[way]) * 1e3
            for way in _OPTIONS
        },
        "first_layer_ms": {way: medians[way].layers()[0]["arrival_ms"] for way in _OPTIONS},
        "layers": layerwise.layers(),
        "layers_chunkwise": medians["chunkwise"].layers(),
        "torch_threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "python": sys.version.split()[0]},
    }


def main() -> int:
    job = Job.from_json(sys.argv[1])
    # One core is left to whatever brings the layers, which on a GPU computing would not take either.
    torch.set_num_threads(max(1, (os.cpu_count() or 1) - 1))

    def tell(line: dict[str, Any]) -> None:
        print(json.dumps(line), flush=True)

    try:
        tell({"result": run_job(job, lambda text: tell({"say": text}))})
    except ObjectCacheError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
