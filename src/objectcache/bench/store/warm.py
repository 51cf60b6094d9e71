"""Page cache that the host has backed, so that no measurement pays for the idle seconds before it.

A guest with free page reporting gives memory that is free for a second or two back to its host. Whoever writes first
then waits for the host, page by page: a tenth of the rate. A store that is full and evicts reuses pages at once.
"""

from __future__ import annotations

import os
from pathlib import Path

_PIECE = memoryview(bytes(1 << 20))


def warm(directory: Path, size_bytes: int) -> None:
    """Write so many bytes into a file in `directory`, and delete it."""
    path = directory / "warm"
    target = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    try:
        left = size_bytes
        while left:
            left -= os.write(target, _PIECE[: min(left, len(_PIECE))])
    finally:
        os.close(target)
        path.unlink()
