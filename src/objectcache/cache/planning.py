"""From a descriptor to a plan: what is resolved is made into parts once, as long as the catalog stays as it is."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from objectcache.catalog import Catalog, Run
from objectcache.descriptor import Descriptor, DescriptorPart
from objectcache.errors import HeldVersionError, KeyNotFoundError
from objectcache.plan import Plan, PlanPart, plan_part, same_versions
from objectcache.recent import Recent
from objectcache.scheduling.modes import choose_mode

KEPT_RUNS = 8192
"""Over all parts that are kept, 1 KB each."""


class Planner:
    """Over one catalog. Thread-safe."""

    _serials = itertools.count(1)  # of all planners of the process: parts are told apart by it

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._parts: Recent[tuple[bytes, DescriptorPart], tuple[tuple[Run, ...], PlanPart]] = Recent(KEPT_RUNS)

    def plan(self, descriptor: Descriptor, rate_bytes_s: float | None = None) -> Plan:
        """What to send for a descriptor whose layout is right, at the rate to expect (None: no cap). Nothing is read.

        Raises NamespaceMismatchError, DescriptorError, KeyNotFoundError; HeldVersionError where what the client holds
        is of other segments.
        """
        namespace = descriptor.namespace
        with self._catalog.view() as view:
            resolved = [
                view.resolve(namespace, part.group, part.shard, part.leaf, part.first, part.stop)
                for part in descriptor.parts
            ]
        parts = [self._part(namespace, part, runs) for part, runs in zip(descriptor.parts, resolved, strict=True)]
        mode = choose_mode(
            [part.shape for part in parts],
            windows_s=descriptor.windows_s,
            rate_bytes_s=rate_bytes_s,
            asked=descriptor.layers_per_unit,
        )
        return Plan.of(parts, mode.layers_per_unit, descriptor.from_layer, mode.reason)

    def _part(self, namespace: bytes, part: DescriptorPart, runs: tuple[Run, ...]) -> PlanPart:
        key = (namespace, replace(part, versions=()) if part.versions else part)  # those are only compared
        kept = self._parts.get(key)
        if kept is not None and kept[0] is runs:  # the very answer that it was made of
            made = kept[1]
        else:
            _check(part, runs)
            made = plan_part(part.group, part.shard, part.shape, runs, next(self._serials))
            self._parts.put(key, (runs, made), len(runs) + len(part.held))
        if part.held and not same_versions(part.versions, made.versions):
            raise HeldVersionError("what the client holds is of segments that were replaced since")
        return made


def _check(part: DescriptorPart, runs: Sequence[Run]) -> None:
    for run in runs:
        if run.segment.layers != part.layers or run.segment.slice_bytes != part.slice_bytes:
            raise KeyNotFoundError(f"segment {run.segment.name} is not laid out as its namespace says")
