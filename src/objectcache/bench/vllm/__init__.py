"""`bench vllm`: time to first token of a real engine, with this project's connector and with others', and what the
connector costs when there is nothing to load, or nothing comes."""

from objectcache.bench.vllm.rows import BARS
from objectcache.bench.vllm.run import run_vllm
from objectcache.bench.vllm.settings import QUICK_LLAMA, Llama, VllmBenchSettings

__all__ = ["BARS", "QUICK_LLAMA", "Llama", "VllmBenchSettings", "run_vllm"]
