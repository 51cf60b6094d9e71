"""Who gets how much bandwidth when, layers per unit, load or recompute: pure, no I/O, no clock of its own."""

from objectcache.scheduling.events import (
    Admitted,
    CapChanged,
    Ended,
    Event,
    Landed,
    PolicyChanged,
    Sent,
    WeightChanged,
    WindowsChanged,
)
from objectcache.scheduling.scheduler import DEFAULT_POLICY, POLICIES, Decision, Scheduler

__all__ = [
    "DEFAULT_POLICY",
    "POLICIES",
    "Admitted",
    "CapChanged",
    "Decision",
    "Ended",
    "Event",
    "Landed",
    "PolicyChanged",
    "Scheduler",
    "Sent",
    "WeightChanged",
    "WindowsChanged",
]
