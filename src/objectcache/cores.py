"""Which cores a thread may run on."""

from __future__ import annotations

import multiprocessing
import os
from contextlib import suppress


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
