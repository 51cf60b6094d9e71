"""Why something is not stored."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why chunks that were offered are not stored."""

    FIRST_SIGHT = "first_sight"
    """Nobody has asked for them before, and the admission wants that."""
    TOO_SHORT = "too_short"
    """Recomputing so short a prefix costs less than a retrieval is worth."""
    TOO_FEW = "too_few"
    """Held until there are more new chunks, or the request ends: to be offered again then."""
    COVERED = "covered"
    """They are stored already."""
    IN_FLIGHT = "in_flight"
    """This process is storing them at this moment."""
    BACKLOG = "backlog"
    """More waits for the store than the staging memory holds."""
    FULL = "full"
    """The store has no room, even after evicting."""
    LATE = "late"
    """The store has not taken it in time."""
    FAILED = "failed"
    """Something went wrong; the handle has the error."""
    ABANDONED = "abandoned"
    """The engine said so: the step was not clean."""
    PARTNER = "partner"
    """Another part that was to become visible with it has been dropped."""
    CLOSED = "closed"
    """The queue was closed first."""

    @property
    def lost(self) -> bool:
        """Whether what was offered would have been wanted: a drop, not a decision."""
        return self not in _DECISIONS


_DECISIONS = frozenset((Reason.FIRST_SIGHT, Reason.TOO_SHORT, Reason.TOO_FEW, Reason.COVERED, Reason.IN_FLIGHT))
