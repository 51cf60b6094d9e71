"""What the scheduler is told. Each event carries its time, on one monotonic clock of its owner's choosing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Admitted:
    """A delivery begins.

    `delivery` is its number, never used again. `links` are the names of the links that it crosses (store, gateway's
    and client's NIC); a link without a cap bounds nothing. `unit_bytes` are the payload of its units in delivery order,
    `windows_s` the compute seconds that follow each of them in the engine's step (its layers' windows added up): empty,
    or one for each unit. `ready_s` is when the engine asks for unit 0; None: at once. Deliveries of one `gang` are
    waited for together.
    """

    now_s: float
    delivery: int
    links: tuple[str, ...]
    unit_bytes: tuple[int, ...]
    windows_s: tuple[float, ...] = ()
    ready_s: float | None = None
    gang: str = ""
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class Sent:
    """`total_bytes` of the delivery's payload have been sent since it began."""

    now_s: float
    delivery: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Landed:
    """The delivery's first `units` units have landed at the client, and are verified."""

    now_s: float
    delivery: int
    units: int


@dataclass(frozen=True, slots=True)
class WindowsChanged:
    """The client corrects what it said: windows of all units, and when it asks, or asked, for unit 0."""

    now_s: float
    delivery: int
    windows_s: tuple[float, ...]
    ready_s: float | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """All sent, cancelled or failed."""

    now_s: float
    delivery: int


@dataclass(frozen=True, slots=True)
class CapChanged:
    """What crosses `link` may take `bytes_s` in all from now on; None: it has no cap."""

    now_s: float
    link: str
    bytes_s: float | None


@dataclass(frozen=True, slots=True)
class PolicyChanged:
    now_s: float
    policy: str


@dataclass(frozen=True, slots=True)
class WeightChanged:
    """A tenant's share among tenants: 1 for those that none was said of."""

    now_s: float
    tenant: str
    weight: float


Event = Admitted | Sent | Landed | WindowsChanged | Ended | CapChanged | PolicyChanged | WeightChanged
