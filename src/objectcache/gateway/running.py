"""Deliveries under way, as the scheduler is told of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import inf

from objectcache.descriptor import Descriptor, TargetKind
from objectcache.gateway.call import Call
from objectcache.gateway.carriers import Carriers
from objectcache.messages import WindowsRequest
from objectcache.plan import Plan
from objectcache.scheduling import Admitted, WindowsChanged

GATEWAY = "gateway"

Key = tuple[bytes | tuple[str, str], int, int]
"""What a client calls a delivery: session, delivery, epoch. One in a response has its bucket and access key instead of
a session."""


@dataclass(eq=False, slots=True)
class Running:
    """`number` is never used again; `slot` is its place on the board, once it has one. `spread` of its `carriers` send
    it: all, or one."""

    number: int
    carriers: Carriers
    spread: int
    key: Key
    links: tuple[str, ...]
    tenant: str
    descriptor: Descriptor
    plan: Plan
    admitted_s: float
    slot: int | None = None
    expected_bytes_s: float = inf
    correction: WindowsChanged | None = None
    units: tuple[tuple[int, tuple[int, ...]], ...] = ()
    """Bytes and layers of what is sent at all; reckoned when they are first asked for."""

    @classmethod
    def of(
        cls, number: int, carriers: Carriers, spread: int, call: Call, descriptor: Descriptor, plan: Plan
    ) -> Running:
        by_session = descriptor.target.kind is not TargetKind.HTTP
        owner = carriers.session if by_session else (call.bucket, call.caller.access_key)
        return cls(
            number,
            carriers,
            spread,
            (owner, descriptor.delivery, descriptor.epoch),
            links_of(call),
            call.caller.access_key,
            descriptor,
            plan,
            time.monotonic(),
        )

    def admitted(self) -> Admitted:
        units = self._units()
        return Admitted(
            self.admitted_s,
            self.number,
            self.links,
            tuple(unit_bytes for unit_bytes, _ in units),
            self.windows(self.descriptor.windows_s),
            gang=f"{self.tenant}/{self.descriptor.gang}" if self.descriptor.gang else "",
            tenant=self.tenant,
        )

    def corrected(self, asked: WindowsRequest, now_s: float) -> WindowsChanged:
        return WindowsChanged(now_s, self.number, self.windows(asked.windows_s), now_s + asked.ready_in_s)

    def windows(self, windows_s: tuple[float, ...]) -> tuple[float, ...]:
        """Of units, from those of layers in delivery order: none, unless there is one for each layer."""
        if len(windows_s) != len(self.plan.geometry.order):
            return ()
        by_layer = dict(zip(self.plan.geometry.order, windows_s, strict=True))
        return tuple(sum(by_layer[layer] for layer in layers) for _, layers in self._units())

    def _units(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        if not self.units:
            geometry, found = self.plan.geometry, []
            for layers in geometry.units:
                sent = tuple(layer for layer in layers if layer >= self.plan.from_layer)
                parts = ((part, layer) for layer in sent for part in geometry.parts_of(layer))
                unit_bytes = sum(geometry.wanted_bytes(part, layer) for part, layer in parts)
                if unit_bytes:
                    found.append((unit_bytes, sent))
            self.units = tuple(found)
        return self.units


def links_of(call: Call) -> tuple[str, ...]:
    """What deliveries for this client cross."""
    return GATEWAY, f"store:{call.bucket}", f"client:{call.request.remote or ''}"
