"""vLLM's real scheduler with the connector's scheduler side, a scripted worker and a fake paged cache."""
