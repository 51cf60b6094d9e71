"""What goes wrong in a benchmark itself."""

from __future__ import annotations

from objectcache.errors import ObjectCacheError


class BenchmarkError(ObjectCacheError):
    """A helper process failed, or what arrived is not what was stored: there is no result."""

    code = "BenchmarkFailed"
    status = 500
