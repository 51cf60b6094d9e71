"""Header look-up. Headers are any mapping here, with names in any case; one that repeats names (CIMultiDict) too."""

from __future__ import annotations

from collections.abc import Mapping


def lowered(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """All of them in their order, with names in lower case."""
    return [(name.strip().lower(), value) for name, value in headers.items()]


def header(headers: Mapping[str, str], name: str) -> str | None:
    """The value of `name` (lower case), repeated ones joined with commas as HTTP has it; None: not sent."""
    values = [value.strip() for found, value in lowered(headers) if found == name]
    return ",".join(values) if values else None
