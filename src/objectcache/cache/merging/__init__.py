"""Merging of small segments into larger ones, so that a prefix is few ranges to read."""
