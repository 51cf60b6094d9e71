"""Compute windows of one layer of Llama 3.1 8B on an H100, as measured: by context (tokens) and hit (percent)."""

from objectcache.bench.modes.settings import WINDOWS_S

__all__ = ["WINDOWS_S"]
