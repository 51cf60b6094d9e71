"""From keys to segments: what a descriptor asks for, and whether chunks are stored. Nothing is read."""

from __future__ import annotations

from collections.abc import Sequence

from objectcache.cache.base import PartId
from objectcache.catalog import Catalog, Run
from objectcache.descriptor import Descriptor, DescriptorPart
from objectcache.errors import HeldVersionError, InvalidObjectNameError, KeyNotFoundError, RequestError
from objectcache.names import parse_segment_name
from objectcache.plan import Plan, PlanPart, plan_part, same_versions


def resolve(catalog: Catalog, descriptor: Descriptor) -> Plan:
    """What to send for a descriptor.

    Raises NamespaceMismatchError, DescriptorError, KeyNotFoundError; HeldVersionError where what the client holds is of
    other segments.
    """
    with catalog.view() as view:
        resolved = [
            view.resolve(descriptor.namespace, part.group, part.shard, part.leaf, part.first, part.stop)
            for part in descriptor.parts
        ]
    parts = [_plan_part(part, runs) for part, runs in zip(descriptor.parts, resolved, strict=True)]
    plan = Plan.of(parts, descriptor.layers_per_unit, descriptor.from_layer)
    if any(part.held for part in descriptor.parts):
        for asked, served in zip(descriptor.parts, plan.versions, strict=True):
            if asked.held and not same_versions(asked.versions, served):
                raise HeldVersionError("what the client holds is of segments that were replaced since")
    return plan


def _plan_part(part: DescriptorPart, runs: Sequence[Run]) -> PlanPart:
    for run in runs:
        if run.segment.layers != part.layers or run.segment.slice_bytes != part.slice_bytes:
            raise KeyNotFoundError(f"segment {run.segment.name} is not laid out as its namespace says")
    return plan_part(part.group, part.shard, part.shape, runs)


def is_covered(catalog: Catalog, namespace: bytes, part: PartId, leaf: bytes, first: int, stop: int) -> bool:
    """Whether chunks [first, stop) of the chain that ends in `leaf` are all stored."""
    with catalog.view() as view:
        try:
            view.resolve(namespace, part.group, part.shard, leaf, first, stop)
        except RequestError:
            return False
    return True


def is_visible(catalog: Catalog, name: str) -> bool:
    """Whether a segment is stored under `name`, which may be anything."""
    try:
        parse_segment_name(name)
    except InvalidObjectNameError:
        return False
    return catalog.segment_named(name) is not None
