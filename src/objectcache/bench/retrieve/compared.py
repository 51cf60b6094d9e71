"""What is compared with what."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from objectcache.bench.retrieve.subject import Subject
from objectcache.bench.transfer import Transfer

Retrieve = Callable[[int], Transfer]
"""Transfers a context, in tokens, once."""


@dataclass(frozen=True)
class Way:
    """`open(subject)` makes everything ready (memory written, connections open, what arrives checked once)."""

    name: str
    open: Callable[[Subject], AbstractContextManager[Retrieve]]


@dataclass(frozen=True)
class Compared:
    """`way` over `ceiling`, pair by pair; the medians are `key` of the summary, by shape and context."""

    key: str
    way: Way
    ceiling: Way
