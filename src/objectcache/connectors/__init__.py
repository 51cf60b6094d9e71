"""Plugs for LLM engines: one package each, each an optional extra."""
