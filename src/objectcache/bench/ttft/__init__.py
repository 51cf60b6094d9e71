"""`bench ttft`: the time to first token on a GPU, with the prefix there, in local DRAM, and behind a gateway."""

from objectcache.bench.ttft.rows import BARS
from objectcache.bench.ttft.run import merge_results, run_ttft
from objectcache.bench.ttft.settings import LLAMA_8B, TINY, Cell, TtftSettings, core_cells, rest_cells

__all__ = [
    "BARS",
    "LLAMA_8B",
    "TINY",
    "Cell",
    "TtftSettings",
    "core_cells",
    "merge_results",
    "rest_cells",
    "run_ttft",
]
