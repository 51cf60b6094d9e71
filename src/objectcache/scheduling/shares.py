"""One link's cap among several gateways: one lends, the others borrow. Pure: asks and time in, shares out.

Every gateway has a floor, which it may use whoever is dead; the lender sets the floors aside and lends the rest, by
demand, for a short while. What is lent counts until it has run out: so a gateway gets more only when another has come
to ask twice, and has less, or has died and its lease has ended. In sum never more than the cap.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

LEASE_S = 1.0
HEADROOM = 1.25
"""How much more than its demand a gateway is lent, as far as there is any: demand grows unannounced."""
LENDER = ""
"""The lender's own name among those that borrow."""


@dataclass(frozen=True, slots=True)
class Share:
    """`bytes_s` for `ttl_s` seconds from the ask on; then the floor again, which is part of it."""

    bytes_s: float
    ttl_s: float


@dataclass(slots=True)
class _Lease:
    floor_bytes_s: float
    demand_bytes_s: float
    lent_bytes_s: float
    until_s: float


class ShareLender:
    """The lender's side. Times are on one monotonic clock of its owner's."""

    def __init__(self, cap_bytes_s: float, floor_bytes_s: float, reserve_bytes_s: float, now_s: float) -> None:
        """`floor_bytes_s` is the lender's own; `reserve_bytes_s` are set aside for the floors of all others together.

        It may have had a life before: for as long as a lease of that may last, it lends nothing beyond floors.
        Raises ValueError unless floor and reserve fit under the cap.
        """
        if not 0 <= floor_bytes_s + reserve_bytes_s <= cap_bytes_s:
            raise ValueError(f"floors of {floor_bytes_s + reserve_bytes_s:g} bytes/s do not fit under {cap_bytes_s:g}")
        self._cap = cap_bytes_s
        self._reserve = reserve_bytes_s
        self._opens_s = now_s + LEASE_S
        self._leases: dict[str, _Lease] = {LENDER: _Lease(floor_bytes_s, 0.0, 0.0, -inf)}

    def ask(
        self, borrower: str, floor_bytes_s: float, demand_bytes_s: float, held_bytes_s: float, now_s: float
    ) -> Share:
        """The share of a gateway that wants `demand_bytes_s`. `floor_bytes_s` is what it uses when nobody answers,
        `held_bytes_s` its share as it asks: that counts until it asks again, since the answer may be lost.

        Raises ValueError when there is no room for its floor.
        """
        self._expire(now_s)
        floors = sum(lease.floor_bytes_s for name, lease in self._leases.items() if name not in (LENDER, borrower))
        if borrower != LENDER and floors + floor_bytes_s > self._reserve * (1 + 1e-9):
            raise ValueError(
                f"a floor of {floor_bytes_s:g} bytes/s is more than is set aside: {self._reserve:g} in all"
            )
        lease = self._leases.setdefault(borrower, _Lease(floor_bytes_s, 0.0, 0.0, now_s))
        lease.floor_bytes_s, lease.demand_bytes_s = floor_bytes_s, demand_bytes_s
        lease.lent_bytes_s = 0.0
        lease.until_s = now_s + LEASE_S
        if now_s >= self._opens_s:
            room = self._room() - sum(other.lent_bytes_s for other in self._leases.values())
            lease.lent_bytes_s = max(0.0, min(self._targets()[borrower], room))
        share = Share(floor_bytes_s + lease.lent_bytes_s, LEASE_S)
        lease.lent_bytes_s = max(lease.lent_bytes_s, held_bytes_s - floor_bytes_s)
        return share

    def own(self, demand_bytes_s: float, now_s: float) -> float:
        """The lender's own share from now on."""
        return self.ask(LENDER, self._leases[LENDER].floor_bytes_s, demand_bytes_s, 0.0, now_s).bytes_s

    def change(self, cap_bytes_s: float) -> None:
        """Leases that are out stay as they are: in sum they may be above a lower cap until they end.

        Raises ValueError when floors do not fit under it.
        """
        if self._leases[LENDER].floor_bytes_s + self._reserve > cap_bytes_s:
            raise ValueError(f"floors do not fit under {cap_bytes_s:g} bytes/s")
        self._cap = cap_bytes_s

    def _expire(self, now_s: float) -> None:
        for name, lease in list(self._leases.items()):
            if name != LENDER and now_s >= lease.until_s:
                del self._leases[name]

    def _room(self) -> float:
        """What can be lent at all."""
        return self._cap - self._reserve - self._leases[LENDER].floor_bytes_s

    def _targets(self) -> dict[str, float]:
        """What each should have beyond its floor: its demand, as far as fair; what is left then, evenly."""
        wants = {
            name: max(0.0, lease.demand_bytes_s * HEADROOM - lease.floor_bytes_s)
            for name, lease in self._leases.items()
        }
        targets, room = dict.fromkeys(wants, 0.0), self._room()
        for index, (name, want) in enumerate(sorted(wants.items(), key=lambda item: item[1])):
            targets[name] = min(want, room / (len(wants) - index))
            room -= targets[name]
        return {name: target + room / len(targets) for name, target in targets.items()}


class BorrowedShare:
    """A borrower's side: what it may use now."""

    def __init__(self, floor_bytes_s: float) -> None:
        self._floor_bytes_s = floor_bytes_s
        self._share = Share(floor_bytes_s, inf)
        self._until_s = inf

    def got(self, share: Share, asked_s: float) -> None:
        """An answer to what was asked at `asked_s`: the lender counts from later, never from earlier."""
        self._share, self._until_s = share, asked_s + share.ttl_s

    def bytes_s(self, now_s: float) -> float:
        return self._share.bytes_s if now_s < self._until_s else self._floor_bytes_s
