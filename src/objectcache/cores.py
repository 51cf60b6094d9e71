"""Which cores a thread may run on."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress


def leave_bound_core() -> None:
    """Let the calling thread run wherever the process that started this one may.

    Engines bind each thread that computes to a core, the main one among them, and what that starts inherits it: it
    would take turns with it, whatever other cores do. In a process that was not started by another Python one, and
    where the system does not have it, this does nothing.
    """
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None or not hasattr(os, "sched_setaffinity"):
        return
    with suppress(OSError):  # the parent is gone, or not ours to look at
        os.sched_setaffinity(0, os.sched_getaffinity(0) | os.sched_getaffinity(parent.pid))


@contextmanager
def only_on(cores: Collection[int]) -> Iterator[None]:
    """The calling thread, and what it starts meanwhile, run on these. Raises OSError where none of them may be used."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
