"""One segment out of several that follow each other in a chain."""

from objectcache.joining.pacing import DEFAULT_BYTES_S, Pace
from objectcache.joining.segments import Joined, JoinOrder, JoinSource, JoinStoppedError, join

__all__ = ["DEFAULT_BYTES_S", "JoinOrder", "JoinSource", "JoinStoppedError", "Joined", "Pace", "join"]
