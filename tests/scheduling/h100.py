"""Compute windows of one layer of Llama 3.1 8B on an H100, as measured: by context (tokens) and hit (percent)."""

from objectcache.simulation.mixes import H100_WINDOWS_S

WINDOWS_S = {(context, hit * 100): window_s for (context, hit), window_s in H100_WINDOWS_S.items()}
