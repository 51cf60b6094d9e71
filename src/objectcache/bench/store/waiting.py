"""How long a thread was ready to run and its core was another's: Linux counts it."""

from __future__ import annotations

import threading
from pathlib import Path


def waited_for_core_s() -> float:
    """Of this thread, so far; 0 where the kernel does not count it."""
    try:
        return int(Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0
